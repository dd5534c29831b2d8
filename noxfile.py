"""The development tasks. ``python3 dev.py`` lists them; ``python3 dev.py TAG`` runs those with a tag.

The tag ``tests`` is what has to pass before a change lands: one Python, the plugins that are quick. The whole matrix is
``python3 dev.py plugins core_alone minimums``; a Python that is not installed is skipped, and nox says so.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.5"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
SQLITE = ROOT / "docs" / "examples" / "pattern-sqlite"
ENGINE = ROOT / "tests" / "servers" / "node"
"""A SurrealDB server for the tests, whose engine comes from npm."""
CORE = nox.project.load_toml("pyproject.toml")
PLUGINS = {path.parent.name: nox.project.load_toml(path) for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))}
SLOW = {"lancedb", "surreal-embedded", "surreal-remote", "torch"}
"""The plugins whose tests take minutes: the tag ``tests`` runs these once, from the tree, in ``full``."""
PYTHONS = nox.project.python_versions(CORE)
HERE = next((each for each in PYTHONS if each == f"{sys.version_info.major}.{sys.version_info.minor}"), PYTHONS[-1])
"""The Python that nox runs in, which is there for certain."""
HEAVY = {"torch": {"torch"}, "surrealdb": {"surreal-embedded", "surreal-remote"}, "lancedb": {"lancedb"}}
"""What an extra must not pull in unasked, and the extras that ask for it."""
STORAGES = {"default": "embedded", "surreal-embedded": "surreal-embedded", "lancedb": "lancedb", "all": "embedded"}
"""The storage that comes with an extra."""
AT_ONCE = ("--numprocesses", "2", "--dist", "worksteal")
"""Two tests at a time: most of them wait for a disk or another process."""
KNOWN_GOOD = ("--constraint", str(ROOT / "constraints.txt"))


def tests_on(python: str) -> list[str]:
    """Return the tags of a session on one Python: those on the Python that is there belong to the tests."""
    return ["tests"] if python == HERE else []


def group(name: str, project: dict[str, Any] = CORE) -> list[str]:
    """Return what a dependency group asks for; nothing where there is no such group."""
    known = name in project.get("dependency-groups", {})
    return list(nox.project.dependency_groups(project, name)) if known else []


def below(plugin: str) -> list[str]:
    """Return the plugins of this repository that a plugin, or its tests, stand on; the lowest first."""
    wanted = {
        Requirement(each).name
        for each in [*PLUGINS[plugin]["project"]["dependencies"], *group("test", PLUGINS[plugin])]
    }
    direct = [name for name in PLUGINS if f"pattern-core-{name}" in wanted]
    return list(dict.fromkeys(each for name in direct for each in [*below(name), name]))


def wheel(distribution: str) -> str:
    """Return the path of a distribution's built wheel."""
    (path,) = DIST.glob(f"{distribution.replace('-', '_')}-[0-9]*.whl")
    return str(path)


def install_tree(session: nox.Session, *plugins: str, also: list[str]) -> None:
    """Install the core and plugins from this tree, and what else is wanted, at versions known to be good."""
    editable = [part for folder in (".", *(f"plugins/{name}" for name in plugins)) for part in ("--editable", folder)]
    session.install(*KNOWN_GOOD, *editable, *also)


def install_wheels(session: nox.Session, *plugins: str, also: list[str]) -> None:
    """Install the built core and plugins, and what else is wanted, at versions known to be good."""
    wheels = [wheel("pattern-core"), *(wheel(f"pattern-core-{name}") for name in plugins)]
    session.install(*KNOWN_GOOD, *wheels, *also)
    # An environment that is used again may hold an older build of the same version.
    session.install("--force-reinstall", "--no-deps", *wheels)


def install_engine(session: nox.Session) -> None:
    """Install the server that tests of remote storages start; without npm they skip, and say what is missing."""
    lock, installed = ENGINE / "package-lock.json", ENGINE / "node_modules" / ".package-lock.json"
    if (npm := shutil.which("npm")) is None:
        session.warn("npm is not installed: tests that need a SurrealDB server are skipped")
    elif not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        with session.chdir(ENGINE):
            session.run(npm, "ci", "--silent", external=True)


def run_elsewhere(session: nox.Session, *tests: Path, covered: bool = False) -> None:
    """Run tests outside the tree, where the sources cannot be imported; measure what of the core they reach, if asked."""
    settings = str(ROOT / "pyproject.toml")
    coverage = ["coverage", "run", f"--rcfile={settings}", "-m"] if covered else []
    with tempfile.TemporaryDirectory(prefix="pattern-tests-") as folder, session.chdir(folder):
        session.run("python", "-c", "import pattern_core; assert 'site-packages' in pattern_core.__file__")
        session.run(*coverage, "pytest", "-c", settings, *AT_ONCE, *map(str, tests), *session.posargs)
        if covered and not session.posargs:
            session.run("coverage", "combine", "--quiet", f"--rcfile={settings}")
            session.run("coverage", "report", f"--rcfile={settings}", "--fail-under=85")


@nox.session(tags=["demo"])
def demo(session: nox.Session) -> None:
    """Remember the standard library's documentation, and answer questions from it; or FILE, behind ``--``."""
    install_tree(session, "surreal", "surreal-embedded", "torch", also=group("demo"))
    session.run("python", "docs/examples/demo.py", *session.posargs)


@nox.session(tags=["tests", "lint"])
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*KNOWN_GOOD, *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(tags=["tests", "dist"])
def dist(session: nox.Session) -> None:
    """Build a wheel and an sdist of every distribution, into ``dist``, and check them."""
    session.install(*KNOWN_GOOD, *group("dist"))
    shutil.rmtree(DIST, ignore_errors=True)
    for folder in (".", *(f"plugins/{name}" for name in PLUGINS)):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(DIST), folder, silent=True)
    built = sorted(DIST.iterdir())
    session.run("twine", "check", "--strict", *map(str, built))
    session.run("check-wheel-contents", *(str(path) for path in built if path.suffix == ".whl"))


@nox.session(tags=["release"], requires=["dist"])
def release(session: nox.Session) -> None:
    """Check that this commit can be released as VERSION, given behind ``--``, and print the commands that do it.

    All distributions have the version, the changelog has a section for it, and the tree is clean. Nothing is published.
    """
    (version,) = session.posargs or session.error("Name the version: nox -s release -- 0.2.0")
    stale = [name for name, each in {"pattern-core": CORE, **PLUGINS}.items() if each["project"]["version"] != version]
    if stale:
        session.error(f"another version is in the pyproject.toml of {', '.join(stale)}")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"\n## {version} - " not in changes:
        session.error(f"CHANGELOG.md has no section `## {version} - YYYY-MM-DD`")
    if changed := session.run("git", "status", "--porcelain", external=True, silent=True):
        session.error(f"commit or remove these first:\n{changed}")
    session.log(f"Ready. To release: git tag -s v{version} -m {version} && git push origin v{version}")
    session.log("Then: twine upload dist/*")


@nox.session(tags=["install"], requires=["dist"], reuse_venv=False)
@nox.parametrize(
    "extra",
    [
        nox.param(extra, tags=["tests"] if extra in PLUGINS and extra != "torch" else [])
        for extra in CORE["project"]["optional-dependencies"]
        if extra != "testing"
    ],
)
def install(session: nox.Session, extra: str) -> None:
    """Install one extra as a user would, into an empty environment, and see that it pulls in nothing unasked."""
    session.install("--find-links", str(DIST), f"pattern-core[{extra}]")
    listed = session.run("python", "-m", "pip", "list", "--format=freeze", silent=True) or ""
    names = {line.partition("==")[0] for line in listed.splitlines()}
    unasked = {heavy for heavy, extras in HEAVY.items() if extra not in {*extras, "default", "all"}} & names
    session.log(f"pattern-core[{extra}] brings {len(names)} distributions: {', '.join(sorted(names))}")
    if unasked:
        session.error(f"pattern-core[{extra}] pulls in {', '.join(sorted(unasked))}")
    session.run("pattern", "plugins")
    if storage := STORAGES.get(extra):
        session.chdir(session.create_tmp())
        Path("pattern.toml").write_text(
            f'[database]\ntype = "{storage}"\n[embeddings]\nprovider = "hashing"\n', "utf-8"
        )
        session.run("pattern", "agent", "add", "Archive")
        session.run("pattern", "memory", "add", "Archive", "tea", "Ada drinks tea after lunch.")
        session.run("pattern", "search", "Archive", "tea")


@nox.session(tags=["tests", "typing"], requires=["dist"])
def typing(session: nox.Session) -> None:
    """Check types, strictly: in the core, the plugins and the tests; then as a plugin's author, who has the wheel."""
    install_wheels(
        session, *PLUGINS, also=[*group("typing"), *(each for one in PLUGINS.values() for each in group("test", one))]
    )
    programs = [
        str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("**/*.py")) if SQLITE not in path.parents
    ]
    session.run("mypy", "core/pattern_core", "noxfile.py", "dev.py", "tests", *programs)
    for folder in (*(f"plugins/{name}" for name in PLUGINS), SQLITE):
        session.run("mypy", str(folder))
    session.chdir(session.create_tmp())
    session.run("mypy", "--strict", "--config-file=", str(ROOT / "tests" / "typing" / "plugin_author.py"))


@nox.session(tags=["core_alone"], requires=["dist"])
@nox.parametrize("python", [nox.param(python, tags=tests_on(python)) for python in PYTHONS])
def core_alone(session: nox.Session) -> None:
    """Test the core's wheel where no plugin is installed; on the Python that is there, measure what the tests reach."""
    install_wheels(session, also=group("test"))
    run_elsewhere(session, ROOT / "tests", covered=session.python == HERE)


@nox.session(tags=["plugins"], requires=["dist"])
@nox.parametrize(
    "python,plugin",
    [
        nox.param(python, plugin, tags=[] if plugin in SLOW else tests_on(python))
        for python in PYTHONS
        for plugin in PLUGINS
    ],
)
def plugins(session: nox.Session, plugin: str) -> None:
    """Test one plugin's wheel where no other plugin is installed."""
    install_wheels(session, *below(plugin), plugin, also=group("test") + group("test", PLUGINS[plugin]))
    if plugin == "surreal-remote":
        install_engine(session)
    run_elsewhere(session, ROOT / "plugins" / plugin / "tests")


@nox.session(tags=["minimums"], requires=["dist"], python=PYTHONS[0])
@nox.parametrize("part", ["core", *PLUGINS])
def minimums(session: nox.Session, part: str) -> None:
    """Test the core, or a plugin, with the oldest versions that the metadata allows."""
    own = [*below(part), part] if part in PLUGINS else []
    projects = [CORE, *(PLUGINS[name] for name in own)]
    direct = [each for project in projects for each in project["project"]["dependencies"] if "pattern-core" not in each]
    wheels = [wheel("pattern-core"), *(wheel(f"pattern-core-{name}") for name in own)]
    tools = [*group("test"), *group("test", PLUGINS.get(part, {}))]
    session.install(*KNOWN_GOOD, "uv")
    # Pre-releases: the embedded engine is one.
    resolve = (
        "uv",
        "pip",
        "install",
        "--resolution",
        "lowest-direct",
        "--find-links",
        str(DIST),
    )
    session.run(*resolve, "--reinstall-package", "pattern-core", *wheels, *direct, *tools)
    session.run("uv", "pip", "list")
    if part == "surreal-remote":
        install_engine(session)
    run_elsewhere(session, ROOT / "plugins" / part / "tests" if own else ROOT / "tests")


@nox.session(tags=["tests", "third_party"], requires=["dist"])
def third_party(session: nox.Session) -> None:
    """Take the example plugin out of the tree, install it and the core from wheels, and run its kit and the demo."""
    install_wheels(session, also=[*group("test"), *group("dist")])
    with tempfile.TemporaryDirectory(prefix="pattern-third-party-") as folder, session.chdir(folder):
        shutil.copytree(SQLITE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "dist", ".*"))
        for name in ("demo.py", "stdlib_docs.py"):
            shutil.copy(SQLITE.parent / name, folder)
        session.run("python", "-m", "build", "--no-isolation", "--wheel", silent=True)
        session.install("--force-reinstall", "--no-deps", *map(str, Path(folder, "dist").glob("*.whl")))
        session.run("pytest", *session.posargs)
        session.run("python", "demo.py", "--storage", "sqlite", "--embeddings", "hashing")


@nox.session(tags=["tests", "docs"])
def docs(session: nox.Session) -> None:
    """Build the documentation into ``docs/_build``; a warning is an error."""
    install_tree(session, also=["--editable", ".[testing]", *group("docs")])
    # What a plugin says of itself needs no engine.
    plain = [part for name in PLUGINS for part in ("--editable", f"plugins/{name}")]
    session.install("--no-deps", *plain)
    session.run("python", "docs/generate.py", "--check")
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-q", "-b", "html", "docs", "docs/_build")


@nox.session(tags=["tests", "full"])
def full(session: nox.Session) -> None:
    """Test the core with all plugins together, and the plugins that `plugins` leaves out."""
    own = [each for one in PLUGINS.values() for each in group("test", one) if not each.startswith("pattern-core")]
    install_tree(session, *PLUGINS, also=[*group("test"), *own])
    install_engine(session)
    slow = [f"plugins/{name}/tests" for name in sorted(SLOW)]
    session.run("pytest", *AT_ONCE, *(session.posargs or ["tests", *slow]))
