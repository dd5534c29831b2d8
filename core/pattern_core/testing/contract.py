"""What all contracts have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

__all__ = ["Contract", "outcome_of"]


class Contract:
    """A set of rules that are tests. A plugin's test module inherits from it and says how to open the plugin.

    A subclass sets `spec` to what the plugin's hook returns, and overrides the fixture `options`. What the spec says
    the plugin can do decides which rules run.

    A rule cannot be left out in silence: a subclass may redefine a test only to mark it
    ``@pytest.mark.xfail(strict=True, reason="…")`` and call the inherited one.

    Attributes:
        spec: What the plugin's hook returns.
    """

    pytestmark = pytest.mark.anyio
    spec: Any

    @pytest.fixture
    def options(self) -> Any:
        """Override: return options, an instance of ``spec.options``, that open an empty resource in each test."""
        raise NotImplementedError(f"{type(self).__name__} has to override the fixture options")

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Plugins run on asyncio."""
        return "asyncio"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _is_ours(cls):
            return
        if not hasattr(cls, "spec"):
            raise TypeError(f"{cls.__name__} has to set `spec` to what the plugin's hook returns")
        rules = {name for base in cls.__mro__ if _is_ours(base) for name in vars(base) if name.startswith("test")}
        for name in sorted(rules):
            owner = next(base for base in cls.__mro__ if name in vars(base))  # which may be a mixin
            if not _is_ours(owner) and not _is_excused(vars(owner)[name]):
                raise TypeError(
                    f"{cls.__name__}.{name} hides a rule of the contract. Remove it; or, if the plugin cannot keep the "
                    f'rule, mark it @pytest.mark.xfail(strict=True, reason="…") and call super().{name}(…).'
                )


async def outcome_of(call: Callable[[], Awaitable[object]]) -> type[BaseException] | None:
    """Return the type of the error that a call raises, or None."""
    try:
        await call()
    except Exception as error:  # noqa: BLE001 - whatever it is, the test compares it
        return type(error)
    return None


def _is_ours(base: type) -> bool:
    return base.__module__.startswith(f"{__package__}.")


def _is_excused(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("strict") and mark.kwargs.get("reason") for mark in marks)
