"""The development tasks. ``python3 dev.py`` lists them; ``python3 dev.py TAG`` runs those with a tag."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
NEEDS = {"surreal-embedded": ["surreal"], "torch": []}
"""The plugins of this repository that a plugin stands on."""
EXTRAS = {"torch": "[minilm]"}
"""Extras of a plugin that its tests want: real weights from a package, as no hub is needed for them."""


def install(session: nox.Session, *plugins: str, groups: tuple[str, ...] = ()) -> None:
    """Install the core, plugins and dependency groups from this tree, at the versions that are known to be good."""
    wanted = ["--editable", "."]
    for plugin in plugins:
        wanted += ["--editable", f"plugins/{plugin}{EXTRAS.get(plugin, '')}"]
    for group in groups:
        wanted += nox.project.dependency_groups(PYPROJECT, group)
    session.install("--constraint", "constraints.txt", *wanted)


@nox.session(tags=["demo"])
def demo(session: nox.Session) -> None:
    """Remember the standard library's documentation, and answer questions from it; or FILE, behind ``--``."""
    install(session, *PLUGINS)
    session.run("python", "docs/examples/demo.py", *session.posargs)


@nox.session(tags=["tests", "lint"])
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("--constraint", "constraints.txt", *nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(tags=["tests", "typing"])
def typing(session: nox.Session) -> None:
    """Check types, strictly, in the core, the plugins and the tests."""
    install(session, *PLUGINS, groups=("typing",))
    session.run("mypy", "core/pattern_core", "noxfile.py", "dev.py", "docs/examples", "tests", *session.posargs)
    for plugin in PLUGINS:
        session.run("mypy", f"plugins/{plugin}")


@nox.session(tags=["tests", "core_alone"])
def core_alone(session: nox.Session) -> None:
    """Test the core where no plugin is installed."""
    install(session, groups=("test",))
    session.run("pytest", "tests", *session.posargs)


@nox.session(tags=["plugin"])
@nox.parametrize("plugin", [name for name in PLUGINS if name in NEEDS])
def plugin(session: nox.Session, plugin: str) -> None:
    """Test one plugin where no other one is installed."""
    install(session, *NEEDS[plugin], plugin, groups=("test",))
    session.run("pytest", f"plugins/{plugin}/tests", *session.posargs)


@nox.session(tags=["tests", "full"])
def full(session: nox.Session) -> None:
    """Test everything together, and measure how much of the core the tests reach."""
    install(session, *PLUGINS, groups=("test",))
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    if not session.posargs:
        session.run("coverage", "combine", "--quiet")
        session.run("coverage", "report", "--fail-under=95")
