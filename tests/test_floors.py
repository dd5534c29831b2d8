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
ROOT = Path(__file__).parents[1]

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "support", "filters", "models"),
    ("schema", "abc", "hookspecs", "config"),
    ("plugins", "catalog", "search", "embedding"),
    ("sessions",),
    ("toolkit", "repositories", "maintenance"),
    ("assembly", "database", "__init__"),
    ("testing", "cli"),
)
"""The modules and folders of the core, from the ground up. One imports from those before it, never from those after it."""

RANK = {name: rank for rank, name in enumerate(name for floor in FLOORS for name in floor)}

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
"""What a user or a plugin's author may import. All else stands in a folder, and is private."""

SOURCES = {
    "pattern_core": CORE,
    **{path.name: path for path in sorted(ROOT.glob("plugins/*/src/*")) if path.is_dir()},
    **{path.name: path for path in sorted(ROOT.glob("docs/examples/*/src/*")) if path.is_dir()},
}
"""The packages of this repository, and where each stands."""

MOST_LINES = 500


def _files() -> list[tuple[str, Path]]:
    return [(package, path) for package, root in SOURCES.items() for path in sorted(root.rglob("*.py"))]


def _imported(package: str, path: Path) -> set[str]:
    """Return the modules of a package that a file imports, in functions and for type checking, too; dotted, without the package."""
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
    """Return the file of a module, if there is such a module."""
    path = root.joinpath(*name.split("."))
    candidates = [path.with_suffix(".py"), path / "__init__.py"]
    return next((each for each in candidates if each.is_file()), None)


def _circles(package: str) -> list[list[str]]:
    """Return the import circles of a package, each with the files on it."""
    root = SOURCES[package]
    paths = sorted(root.rglob("*.py"))
    arrows = {path: {_path_of(root, name) for name in _imported(package, path)} - {path, None} for path in paths}
    below: dict[Path, set[Path]] = {path: set() for path in paths}
    for path in paths:
        waiting = [path]
        while waiting:
            for target in arrows[waiting.pop()] - below[path]:
                assert target is not None
                below[path].add(target)
                waiting.append(target)
    tied = {frozenset({path, *(each for each in below[path] if path in below[each])}) for path in paths}
    return [sorted(str(each.relative_to(root)) for each in circle) for circle in tied if len(circle) > 1]


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_imports_go_down(path: Path) -> None:
    """A file imports nothing from a folder or module above its own."""
    own = RANK[path.relative_to(CORE).parts[0].removesuffix(".py")]
    imported = {name.split(".")[0] for name in _imported("pattern_core", path)}

    assert not {name for name in imported if RANK[name] > own}


@pytest.mark.parametrize("package", SOURCES)
def test_no_import_circles(package: str) -> None:
    """No two files of a package need each other."""
    assert not _circles(package)


def test_the_root_is_public() -> None:
    """The root of the core holds what may be imported, and folders; each folder says what belongs there."""
    names = {path.name for path in CORE.iterdir() if path.name != "__pycache__"}
    private = {name for name in names - PUBLIC if (CORE / name).is_dir()}

    assert names - private == PUBLIC
    assert all(ast.get_docstring(ast.parse((CORE / name / "__init__.py").read_text("utf-8"))) for name in private)


@pytest.mark.parametrize(
    ("package", "path"), _files(), ids=lambda value: value if isinstance(value, str) else value.name
)
def test_no_long_files(package: str, path: Path) -> None:
    """A file has one subject, and few lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_plugins_import_what_is_public() -> None:
    """A plugin of this repository imports nothing of the core that a stranger's may not."""
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
