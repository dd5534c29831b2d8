"""The base class of all contracts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

__all__ = ["Contract", "outcome_of"]


class Contract:
    """A set of rules, each of them a test.

    A test class of a plugin inherits from a contract, sets `spec`, and overrides the fixture `options`. The spec
    decides which rules run.

    No rule can be dropped silently. A subclass may override a rule only to mark it
    ``@pytest.mark.xfail(strict=True, reason="…")`` and call the inherited one.

    Attributes:
        spec: The spec that the plugin's hook returns.
    """

    pytestmark = pytest.mark.anyio
    spec: Any

    @pytest.fixture
    def options(self) -> Any:
        """Override this: return an instance of ``spec.options`` that opens an empty resource in each test."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture options")

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The asyncio backend, the only one that plugins support."""
        return "asyncio"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if _is_kit(cls):
            return
        if not hasattr(cls, "spec"):
            raise TypeError(f"{cls.__name__} must set `spec` to the spec that the plugin's hook returns")
        rules = {name for base in cls.__mro__ if _is_kit(base) for name in vars(base) if name.startswith("test")}
        for name in sorted(rules):
            owner = next(base for base in cls.__mro__ if name in vars(base))  # a mixin can hide a rule, too
            if not _is_kit(owner) and not _is_strict_xfail(vars(owner)[name]):
                raise TypeError(
                    f"{cls.__name__}.{name} hides a rule of the contract. Remove it. If the plugin cannot keep the "
                    f'rule, mark it @pytest.mark.xfail(strict=True, reason="…") and call super().{name}(…).'
                )


async def outcome_of(call: Callable[[], Awaitable[object]]) -> type[BaseException] | None:
    """Return the type of the error that a call raises; None if it raises none."""
    try:
        await call()
    except Exception as error:  # noqa: BLE001 - the test compares any error
        return type(error)
    return None


def _is_kit(base: type) -> bool:
    return base.__module__.startswith(f"{__package__}.")


def _is_strict_xfail(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("strict") and mark.kwargs.get("reason") for mark in marks)
