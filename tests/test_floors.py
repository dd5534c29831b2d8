"""The layers of the core: a file imports only from its own layer's modules and below, and public names exist."""

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
ROOT = Path(__file__).parents[1]

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "support", "filters", "models"),
    ("schema", "abc", "hookspecs", "config"),
    ("plugins", "catalog", "search", "embedding"),
    ("sessions",),
    ("toolkit", "repositories", "maintenance"),
    ("assembly", "database", "__init__"),
    ("testing", "cli"),
)
"""The modules and folders of the core, lowest layer first. Each imports only from those before it."""

RANK = {name: rank for rank, name in enumerate(name for layer in LAYERS for name in layer)}

PUBLIC = {
    "__init__.py",
    "abc",
    "config.py",
    "database.py",
    "errors.py",
    "filters.py",
    "hookspecs.py",
    "models.py",
    "py.typed",
    "schema",
    "testing",
    "toolkit.py",
}
"""The modules that users and plugin authors may import. All others are in folders, and private."""

SOURCES = {
    "pattern_core": CORE,
    **{path.name: path for path in sorted(ROOT.glob("plugins/*/src/*")) if path.is_dir()},
    **{path.name: path for path in sorted(ROOT.glob("docs/examples/*/src/*")) if path.is_dir()},
}
"""The packages of this repository, with their folders."""

MOST_LINES = 500


def _files() -> list[tuple[str, Path]]:
    return [(package, path) for package, root in SOURCES.items() for path in sorted(root.rglob("*.py"))]


def _imported(package: str, path: Path) -> set[str]:
    """Return the modules of a package that a file imports anywhere, as dotted names without the package."""
    root = SOURCES[package]
    here = [package, *path.relative_to(root).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}
    return {name for name in found if _path_of(root, name) is not None}


def _path_of(root: Path, name: str) -> Path | None:
    """Return the file of a module; None if there is no such module."""
    path = root.joinpath(*name.split("."))
    candidates = [path.with_suffix(".py"), path / "__init__.py"]
    return next((each for each in candidates if each.is_file()), None)


def _cycles(package: str) -> list[list[str]]:
    """Return the import cycles of a package, each as a list of files."""
    root = SOURCES[package]
    paths = sorted(root.rglob("*.py"))
    imports = {path: {_path_of(root, name) for name in _imported(package, path)} - {path, None} for path in paths}
    reached: dict[Path, set[Path]] = {path: set() for path in paths}
    for path in paths:
        waiting = [path]
        while waiting:
            for target in imports[waiting.pop()] - reached[path]:
                assert target is not None
                reached[path].add(target)
                waiting.append(target)
    cycles = {frozenset({path, *(each for each in reached[path] if path in reached[each])}) for path in paths}
    return [sorted(str(each.relative_to(root)) for each in cycle) for cycle in cycles if len(cycle) > 1]


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_imports_go_down(path: Path) -> None:
    """A file imports nothing from a module or folder above its own."""
    own = RANK[path.relative_to(CORE).parts[0].removesuffix(".py")]
    imported = {name.split(".")[0] for name in _imported("pattern_core", path)}

    assert not {name for name in imported if RANK[name] > own}


@pytest.mark.parametrize("package", SOURCES)
def test_no_import_cycles(package: str) -> None:
    """No two files of a package import each other, directly or through others."""
    assert not _cycles(package)


def test_the_root_is_public() -> None:
    """The root of the core holds only public modules and folders; each private folder has a docstring."""
    names = {path.name for path in CORE.iterdir() if path.name != "__pycache__"}
    private = {name for name in names - PUBLIC if (CORE / name).is_dir()}

    assert names - private == PUBLIC
    assert all(ast.get_docstring(ast.parse((CORE / name / "__init__.py").read_text("utf-8"))) for name in private)


@pytest.mark.parametrize(
    ("package", "path"), _files(), ids=lambda value: value if isinstance(value, str) else value.name
)
def test_no_long_files(package: str, path: Path) -> None:
    """A file has at most 500 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_plugins_import_public_modules() -> None:
    """The plugins of this repository import only public modules of the core."""
    public = {name.removesuffix(".py") for name in PUBLIC}
    for package, root in SOURCES.items():
        if package == "pattern_core":
            continue
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pattern_core."):
                    assert str(node.module).split(".")[1] in public, f"{path}: {node.module}"


def _modules() -> list[str]:
    return [
        info.name
        for info in pkgutil.walk_packages([str(CORE)], "pattern_core.")
        if not info.name.startswith("pattern_core.testing")
    ]


@pytest.mark.parametrize("name", ["pattern_core", *_modules()])
def test_public_names_exist(name: str) -> None:
    """Every name in a module's ``__all__`` exists, once."""
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))

    assert all(hasattr(module, each) for each in exported)
    assert len(set(exported)) == len(exported)


def test_the_package() -> None:
    """The package lists its names, has a version, and raises an error for unknown names."""
    assert {"open", "Field", "__version__"} <= set(dir(pattern_core))
    assert pattern_core.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no_such_name"):
        pattern_core.no_such_name  # noqa: B018 - the access raises the error


@pytest.mark.parametrize("code", ["import pattern_core", "import pattern_core; pattern_core.Field, pattern_core.open"])
def test_imports_are_cheap(code: str) -> None:
    """Importing the package or its names imports no model, engine or Arrow."""
    heavy = "torch sentence_transformers transformers surrealdb surrealdb_embedded pyarrow pyarrow.dataset".split()  # noqa: SIM905 - reads best
    script = f"import sys; {code}; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"
