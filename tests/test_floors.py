"""The house: a file imports only from floors below its own, and the public names are true."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pattern_core

CORE = Path(pattern_core.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "clock", "validators", "filters", "models", "places", "splitting", "uncut"),
    ("schema", "abc", "hookspecs"),
    ("options", "config", "plugins", "exact", "hashing"),
    ("retry", "cache", "embedding", "indexing", "metadata", "parts", "edits", "session", "transaction", "paging"),
    ("repositories", "maintenance", "wiring"),
    ("database", "opening", "__init__"),
    ("cli", "testing"),
)
"""The modules of the core from the ground up. Within a floor, a module imports from those named before it."""

RANK = {name: rank for rank, name in enumerate(name for floor in FLOORS for name in floor)}


def _top(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def _imported(path: Path) -> set[str]:
    """The core's modules that a file imports anywhere, in functions and for type checking, too."""
    package = ["pattern_core", *path.relative_to(CORE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem == "pattern_core" else [stem]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("pattern_core.")}
    return {name for name in found if name in RANK}


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_imports_go_down(path: Path) -> None:
    """A file imports nothing from its own height or above."""
    own = RANK[_top(path)]
    too_high = {name for name in _imported(path) if RANK[name] > own}

    assert not too_high


def _modules() -> list[str]:
    return [
        info.name
        for info in pkgutil.walk_packages([str(CORE)], "pattern_core.")
        if not info.name.startswith("pattern_core.testing")
    ]


@pytest.mark.parametrize("name", ["pattern_core", *_modules()])
def test_public_names_exist(name: str) -> None:
    """What a module says it exports is there, sorted and once."""
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))

    assert all(hasattr(module, each) for each in exported)
    assert len(set(exported)) == len(exported)


def test_the_package() -> None:
    """The package offers its names to `dir`, knows its version, and says what it does not have."""
    assert {"open", "Field", "__version__"} <= set(dir(pattern_core))
    assert pattern_core.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no_such_name"):
        pattern_core.no_such_name  # noqa: B018 - the access is what is tested


@pytest.mark.parametrize("code", ["import pattern_core", "import pattern_core; pattern_core.Field, pattern_core.open"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    """Neither importing the package nor naming its parts loads a model, an engine or Arrow."""
    heavy = "torch sentence_transformers transformers surrealdb surrealdb_embedded pyarrow pyarrow.dataset".split()  # noqa: SIM905 - reads best
    script = f"import sys; {code}; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"
