"""The repository keeps its own rules: kits, hooks, exports, extras, metadata, nothing of anybody's machine.

Each rule is a function that returns what breaks it. It is asked about the repository, where it has to find nothing, and
about something broken, where it has to find that.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pattern_core import hookspecs
from pattern_core.plugins.discovery import EXTRAS, Role

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
EXAMPLE = ROOT / "docs" / "examples" / "pattern-sqlite"
KITS = {
    "pattern_storage": "StorageContract",
    "pattern_vectors": "VectorStoreContract",
    "pattern_embeddings": "EmbedderContract",
}
LEAKS = re.compile(
    r"""(?x)
    (?<![\w.~:/\]}])/(?:home|root|Users|work|tmp|opt|mnt|private)/\w  # a folder of somebody's machine
    | \b[A-Z]:\\+Users\\                                              # and of a machine with Windows
    | \b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b    # an address in somebody's network
    | \b(?:sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|gh[pousr]_\w{30,}|hf_\w{30,}|-----BEGIN\ [A-Z\ ]*PRIVATE\ KEY)
    """
)


def project_of(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0]


def texts() -> Iterator[Path]:
    """The repository's own texts, and nothing that was generated or installed."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith((".", "_build", "__pycache__", "dist", "pattern-backups")) for part in parts[:-1])
        if path.suffix in {".py", ".md", ".toml", ".txt", ".css", ".j2", ".tmpl"} and not hidden:
            yield path


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def without_kit(folder: Path, sources: str = "src") -> set[str]:
    """The hooks of a plugin that no test class holds to their contract."""
    entries = project_of(folder)["project"].get("entry-points", {}).get(hookspecs.ENTRY_POINT_GROUP, {})
    hooks = set()
    for module in entries.values():
        source = (folder / sources / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        for node in functions(ast.parse(source)):
            if any(ast.unparse(each).startswith("hookimpl") for each in node.decorator_list):
                hooks.add(node.name)
    inherited = {
        ast.unparse(base).rpartition(".")[2]
        for path in (folder / "tests").rglob("test_*.py")
        for node in functions(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
        for base in node.bases
    }
    return {hook for hook in hooks if KITS[hook] not in inherited}


def undocumented(hooks: dict[str, Any], page: str) -> set[str]:
    """The hooks whose signature a page does not show."""
    return {name for name, hook in hooks.items() if f"def {name}{inspect.signature(hook)}".replace("'", "") not in page}


def lies(source: str) -> set[str]:
    """What a module's ``__all__`` names and the module lacks, and the functions and classes that it does not name."""
    tree = ast.parse(source)
    bound: set[str] = set()
    exported: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                bound |= {alias.asname or alias.name for alias in names}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                exported = ast.literal_eval(value)
            case ast.Assign(targets=targets):
                bound |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                bound.add(name)
    # A command of the program is reached by its group, not by its name.
    commands = {
        node.name for node in functions(tree) if any(".command(" in ast.unparse(each) for each in node.decorator_list)
    }
    defined = {node.name for node in functions(tree)}
    public = {name for name in defined - commands if not name.startswith("_")}
    doubled = {name for name in exported if exported.count(name) > 1}
    return (set(exported) - bound - defined) | (public - set(exported)) | doubled


def wrong_extras(core: dict[str, Any], plugins: list[dict[str, Any]], known: dict[str, str]) -> list[str]:
    """Where the core's extras, its table of published plugins, and the plugins disagree."""
    extras = {name: {name_of(each) for each in wanted} for name, wanted in core["optional-dependencies"].items()}
    ours = {plugin["name"]: plugin.get("entry-points", {}).get(hookspecs.ENTRY_POINT_GROUP, {}) for plugin in plugins}
    wrong = [
        f"the extra {extra} wants {wanted}, which is not in plugins/"
        for extra, distributions in extras.items()
        for wanted in distributions
        if wanted.startswith("pattern-core") and wanted not in ours
    ]
    for distribution, words in ours.items():
        for word in words:
            if distribution not in extras.get(known.get(word, ""), set()):
                wrong.append(f"EXTRAS names no extra that installs {word} ({distribution})")
            if distribution not in extras["all"]:
                wrong.append(f"the extra all lacks {distribution}")
    offered = {word for words in ours.values() for word in words}
    return wrong + [f"EXTRAS names {word}, which no plugin offers" for word in known if word not in offered]


def incomplete(folder: Path, core: dict[str, Any], sources: str = "src") -> list[str]:
    """What a distribution's metadata lacks."""
    project = project_of(folder)["project"]
    wanted = {"name", "version", "description", "readme", "license", "license-files", "authors", "keywords"}
    missing = sorted({*wanted, "classifiers", "requires-python", "dependencies"} - project.keys())
    if missing:
        return missing
    pythons = {each for each in core["classifiers"] if each.startswith("Programming Language")}
    wrong = [f"the classifier {each}" for each in sorted({*pythons, "Typing :: Typed"} - {*project["classifiers"]})]
    if project["requires-python"] != core["requires-python"]:
        wrong.append("the same Python as the core")
    if not (folder / project["readme"]).is_file():
        wrong.append("its readme")
    if (folder / "LICENSE").read_text(encoding="utf-8") != (ROOT / "LICENSE").read_text(encoding="utf-8"):
        wrong.append("the licence's text")
    if not list((folder / sources).glob("*/py.typed")):
        wrong.append("py.typed")
    if project["name"] != core["name"]:
        major, minor, _ = core["version"].split(".")
        pin = f"pattern-core>={major}.{minor},<{major}.{int(minor) + 1}"
        wrong += [f"the dependency {pin}"] if pin not in project["dependencies"] else []
    return wrong


CORE = project_of(ROOT)["project"]
HOOKS = {role.value: getattr(hookspecs, role.value) for role in Role}


class TestKits:
    @pytest.mark.parametrize("folder", [*PLUGINS, EXAMPLE], ids=lambda folder: folder.name)
    def test_a_plugin_runs_the_kit_of_each_role(self, folder: Path) -> None:
        """A plugin's tests hold it to the contract of every role that it offers."""
        assert not without_kit(folder)

    def test_the_built_in_plugins_do_so_too(self) -> None:
        """`exact` and `hashing` are plugins like any other."""
        assert not without_kit(ROOT, "core")

    def test_a_role_without_a_kit_is_found(self, tmp_path: Path) -> None:
        """The rule fails where a role has no test class, or one that pytest does not collect."""
        (tmp_path / "tests").mkdir()
        (tmp_path / "src").mkdir()
        (tmp_path / "pyproject.toml").write_text('[project.entry-points.pattern_core]\nacme = "acme"\n')
        (tmp_path / "src" / "acme.py").write_text(
            "@hookimpl\ndef pattern_storage(): ...\n@hookimpl\ndef pattern_vectors(): ...\n"
        )
        (tmp_path / "tests" / "test_acme.py").write_text(
            "class TestIt(StorageContract): ...\nclass Not(VectorStoreContract): ...\n"
        )
        assert without_kit(tmp_path) == {"pattern_vectors"}

    def test_every_role_has_a_kit(self) -> None:
        """There is a contract for each hook."""
        assert set(KITS) == set(HOOKS)


class TestHooks:
    def test_a_hook_is_documented(self) -> None:
        """The authors' page shows every hook's signature."""
        assert not undocumented(HOOKS, (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"))

    def test_every_hook_is_a_role(self) -> None:
        """No hook stands in `hookspecs` that core never calls."""
        marked = {
            name for name, each in vars(hookspecs).items() if hasattr(each, f"{hookspecs.ENTRY_POINT_GROUP}_spec")
        }
        assert marked == set(HOOKS)

    def test_a_signature_that_is_not_shown_is_found(self) -> None:
        """The rule fails where a page lacks a hook, or shows another signature."""
        page = "def pattern_storage() -> StorageSpec\ndef pattern_vectors(config) -> VectorSpec"
        assert undocumented(HOOKS, page) == {"pattern_vectors", "pattern_embeddings"}


class TestExports:
    @pytest.mark.parametrize(
        "path",
        [
            path
            for root in (ROOT / "core", ROOT / "plugins", EXAMPLE / "src")
            for path in sorted(root.rglob("*.py"))
            if "tests" not in path.parts
        ],
        ids=lambda path: str(path.relative_to(ROOT)),
    )
    def test_all_is_true(self, path: Path) -> None:
        """A module's ``__all__`` names what it has, and all of its public functions and classes."""
        assert not lies(path.read_text(encoding="utf-8"))

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            ("__all__ = ['there', 'gone']\ndef there(): ...", {"gone"}),
            ("__all__ = ['there']\ndef there(): ...\nclass Forgotten: ...", {"Forgotten"}),
            ("def there(): ...", {"there"}),
            ("__all__ = ['there', 'there']\nfrom elsewhere import there", {"there"}),
            ("__all__ = ['there']\nthere: int = 1\ndef _own(): ...\n@app.command('x')\ndef verb(): ...", set()),
        ],
    )
    def test_a_lie_is_found(self, source: str, found: set[str]) -> None:
        """The rule fails where a name is missing, forgotten or told twice, and nowhere else."""
        assert lies(source) == found


class TestExtras:
    def test_extras_and_plugins_agree(self) -> None:
        """Each extra can be installed, each plugin has one, and the message about a missing plugin names it."""
        assert not wrong_extras(CORE, [project_of(folder)["project"] for folder in PLUGINS], EXTRAS)

    def test_a_disagreement_is_found(self) -> None:
        """The rule fails for an extra of nothing, a plugin of no extra, and a name that nobody offers."""
        core = {"optional-dependencies": {"acme": ["pattern-core-acme"], "all": []}}
        plugin = {"name": "pattern-core-new", "entry-points": {"pattern_core": {"new": "x"}}}
        assert wrong_extras(core, [plugin], {"acme": "acme"}) == [
            "the extra acme wants pattern-core-acme, which is not in plugins/",
            "EXTRAS names no extra that installs new (pattern-core-new)",
            "the extra all lacks pattern-core-new",
            "EXTRAS names acme, which no plugin offers",
        ]


class TestMetadata:
    @pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
    def test_a_plugin_says_all_of_itself(self, folder: Path) -> None:
        """A plugin's metadata is complete, its licence included, and pins the core it was made for."""
        assert not incomplete(folder, CORE)

    def test_so_does_the_core(self) -> None:
        """The core's metadata is complete."""
        assert not incomplete(ROOT, CORE, "core")

    def test_what_is_missing_is_found(self, tmp_path: Path) -> None:
        """The rule fails where metadata lacks a field, the pin, a file, or the licence."""
        source = (PLUGINS[0] / "pyproject.toml").read_text(encoding="utf-8")
        (tmp_path / "src" / "acme").mkdir(parents=True)
        (tmp_path / "LICENSE").write_text("Mine.")
        (tmp_path / "pyproject.toml").write_text(source.replace("license-files", "#").replace("keywords", "#"))
        assert incomplete(tmp_path, CORE) == ["keywords", "license-files"]
        (tmp_path / "pyproject.toml").write_text(
            source.replace("pattern-core>=", "pattern-core==").replace('    "Typing :: Typed",\n', "")
        )
        assert incomplete(tmp_path, CORE) == [
            "the classifier Typing :: Typed",
            "its readme",
            "the licence's text",
            "py.typed",
            "the dependency pattern-core>=0.1,<0.2",
        ]

    def test_what_is_asked_for_has_a_known_good_version(self) -> None:
        """Whatever the metadata and the development tasks ask for directly is pinned in ``constraints.txt``."""
        pinned = {
            name_of(line).replace("_", "-").lower() for line in (ROOT / "constraints.txt").read_text().splitlines()
        }
        asked = set()
        for project in map(project_of, [ROOT, *PLUGINS]):
            groups = [project["project"]["dependencies"], *project["project"].get("optional-dependencies", {}).values()]
            groups += project.get("dependency-groups", {}).values()
            asked |= {name_of(each).lower() for group in groups for each in group if isinstance(each, str)}
        assert not {name for name in asked if not name.startswith("pattern-core")} - pinned


class TestPrivacy:
    @pytest.mark.parametrize("path", list(texts()), ids=lambda path: str(path.relative_to(ROOT)))
    def test_nothing_of_anybodys_machine(self, path: Path) -> None:
        """No text of the repository holds an absolute path, an address of a private network, or a secret."""
        assert not LEAKS.findall(path.read_text(encoding="utf-8"))

    @pytest.mark.parametrize("parts", ["/|home/ada", r"C:\|Users\ada", "192.|168.0.7", "AKIA|0123456789ABCDEF"])
    def test_a_leak_is_found(self, parts: str) -> None:
        """The rule fails for paths, addresses and keys (cut in two here, lest this file break the rule itself)."""
        assert LEAKS.search(f"see {parts.replace('|', '')}.")


class TestHabits:
    """What people expect of a repository that they want to rely on."""

    def test_the_workflow_runs_tasks_that_exist(self) -> None:
        """The workflow for a forge calls tags and sessions of noxfile.py, on each Python of the classifiers."""
        workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
        tasks = {task for line in re.findall(r"python dev\.py (.+)", workflow) for task in line.split()}
        noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
        known = set(re.findall(r"^def (\w+)\(session", noxfile, re.MULTILINE)) | set(re.findall(r'"(\w+)"', noxfile))
        assert tasks >= {"demo", "tests", "minimums"}
        assert tasks <= known
        classifiers = project_of(ROOT)["project"]["classifiers"]
        pythons = {each.rpartition(" ")[2] for each in classifiers if re.search(r":: 3\.\d+$", each)}
        assert set(re.findall(r'"(3\.\d+)"', workflow)) == pythons

    def test_pre_commit_has_the_versions_of_the_tests(self) -> None:
        """Tools of the pre-commit configuration that constraints.txt pins have the same version in both."""
        hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
        pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
        (revision,) = re.findall(r"ruff-pre-commit\n\s+rev: v(\S+)", hooks)
        assert revision == pinned["ruff"]

    def test_all_distributions_have_one_version(self) -> None:
        """The core and the plugins are released together, with one version, and the changelog has a section for it."""
        versions = {project_of(folder)["project"]["version"] for folder in (ROOT, *PLUGINS)}
        assert len(versions) == 1
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        assert re.search(rf"^## (Unreleased$|{re.escape(*versions)} - \d{{4}}-\d\d-\d\d$)", changelog, re.MULTILINE)

    def test_decision_records_are_complete(self) -> None:
        """Each decision record is in the index, and has the four headings with something below each."""
        folder = ROOT / "docs" / "explanation" / "decisions"
        index = (folder / "index.md").read_text(encoding="utf-8")
        records = [path for path in sorted(folder.glob("*.md")) if path.name != "index.md"]
        assert len(records) >= 5
        for path in records:
            text = path.read_text(encoding="utf-8")
            parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
            assert parts[1::2] == ["Context", "Decision", "Consequences", "What would change our mind"], path.name
            assert all(part.strip() for part in parts[2::2]), path.name
            assert text.startswith("# ")
            assert f"]({path.name})" in index
            assert f"\n{path.stem}\n" in index, "the table of contents needs it as well"

    @pytest.mark.parametrize(
        "name",
        [
            "SECURITY.md",
            "CONTRIBUTING.md",
            "LICENSE",
            ".github/pull_request_template.md",
            ".github/ISSUE_TEMPLATE/bug.md",
            ".github/ISSUE_TEMPLATE/backend.md",
        ],
    )
    def test_the_files_of_a_project_are_there(self, name: str) -> None:
        """The files that forges show to reporters and contributors exist, and their links lead to files."""
        text = (ROOT / name).read_text(encoding="utf-8")
        assert len(text) > 200
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            assert "://" in target or (ROOT / name).parent.joinpath(target).exists(), target
