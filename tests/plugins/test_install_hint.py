"""The commands that install a plugin or a newer core, for every way in which the core can have been installed."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pattern_core.errors import PluginNotFoundError
from pattern_core.hookspecs import EmbeddingSpec
from pattern_core.plugins.discovery import EXTRAS, load_plugin
from pattern_core.plugins.install_hint import REQUIRED, install_command, upgrade_command

ROOT = Path(__file__).parents[2]
FROM_INDEX = 'pip install "pattern-core[torch]"'

Install = Callable[[Any], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a pattern-core without modules, with a ``direct_url.json`` if there is one to write."""

    def install(origin: Any) -> None:
        info = tmp_path / "site" / "pattern_core-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pattern-core\nVersion: 0.1.0\n")
        if origin is not None:
            (info / "direct_url.json").write_text(origin if isinstance(origin, str) else json.dumps(origin))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


@pytest.fixture(params=["clone", "a folder", 'odd "$HOME" `x`'])
def clone(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A clone with plugins, also in a folder whose name the shell would change."""
    folder = tmp_path / str(request.param)
    for plugin in ("torch", "surreal", "surreal-embedded"):
        (folder / "plugins" / plugin).mkdir(parents=True)
        (folder / "plugins" / plugin / "pyproject.toml").touch()
    (folder / ".git").mkdir()
    return folder


class TestALocalClone:
    """An installation from a clone uses the plugins of that clone."""

    @pytest.mark.parametrize("about", [{"editable": True}, {}])
    def test_a_plugin(self, installed: Install, clone: Path, about: dict[str, bool]) -> None:
        """A shell reads the absolute folder of the plugin from the command."""
        installed({"url": clone.as_uri(), "dir_info": about})

        assert shlex.split(install_command("torch")) == ["pip", "install", str(clone / "plugins" / "torch")]

    def test_a_plugin_that_needs_another(self, installed: Install, clone: Path) -> None:
        """The command also installs the plugin that the wanted one depends on, which no index has."""
        installed({"url": clone.as_uri(), "dir_info": {}})

        folders = [str(clone / "plugins" / name) for name in ("surreal", "surreal-embedded")]
        assert shlex.split(install_command("surreal-embedded")) == ["pip", "install", *folders]

    def test_a_plugin_that_the_clone_lacks(self, installed: Install, clone: Path) -> None:
        """A clone without the plugin is no source for it, so the command names the index."""
        installed({"url": clone.as_uri(), "dir_info": {}})

        assert install_command("lancedb") == 'pip install "pattern-core[lancedb]"'

    @pytest.mark.parametrize(("about", "flag"), [({"editable": True}, ["--editable"]), ({}, [])])
    def test_an_upgrade(self, installed: Install, clone: Path, about: dict[str, bool], flag: list[str]) -> None:
        """An upgrade updates the clone, and installs it again in the same way."""
        installed({"url": clone.as_uri(), "dir_info": about})

        pull, _, install = upgrade_command().partition(" && ")
        assert shlex.split(pull) == ["git", "-C", str(clone), "pull"]
        assert shlex.split(install) == ["pip", "install", "--upgrade", *flag, str(clone)]

    def test_an_upgrade_without_git(self, installed: Install, tmp_path: Path) -> None:
        """A folder that is no clone cannot be updated, so the command names the index."""
        installed({"url": tmp_path.as_uri(), "dir_info": {}})

        assert upgrade_command() == "pip install --upgrade pattern-core"


class TestARepository:
    """An installation from version control uses the plugins of that repository."""

    URL = "https://example.org/pattern-core.git"

    def test_a_plugin(self, installed: Install) -> None:
        """The command names the folder of the plugin in the repository."""
        installed({"url": self.URL, "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}})

        assert install_command("torch") == f'pip install "git+{self.URL}#subdirectory=plugins/torch"'
        both = [f"git+{self.URL}#subdirectory=plugins/{name}" for name in ("surreal", "surreal-remote")]
        assert shlex.split(install_command("surreal-remote")) == ["pip", "install", *both]

    def test_a_revision(self, installed: Install) -> None:
        """A plugin comes from the revision that the user asked for; an upgrade does not."""
        installed({"url": self.URL, "vcs_info": {"vcs": "git", "commit_id": "c0ffee", "requested_revision": "v1"}})

        assert install_command("torch") == f'pip install "git+{self.URL}@v1#subdirectory=plugins/torch"'
        assert upgrade_command() == f'pip install --upgrade "git+{self.URL}"'


class TestOtherSources:
    """Everything else is searched for on the index, as pip does without a hint."""

    @pytest.mark.parametrize(
        "origin",
        [
            None,
            "",
            "no JSON",
            "[]",
            {"url": 3},
            {"url": "https://example.org/pattern_core-0.1.0.whl", "archive_info": {}},
            {"url": "file:///nowhere/at/all", "dir_info": {}},
            {"url": "file://localhost/nowhere", "dir_info": {}},
        ],
    )
    def test_an_index(self, installed: Install, origin: Any) -> None:
        """Without a usable record of the source, the commands name the index."""
        installed(origin)

        assert install_command("torch") == FROM_INDEX
        assert upgrade_command() == "pip install --upgrade pattern-core"

    def test_a_folder_of_wheels(self, installed: Install, tmp_path: Path) -> None:
        """A wheel with the plugin's wheel beside it is found in that folder."""
        wheel = tmp_path / "dist" / "pattern_core-0.1.0-py3-none-any.whl"
        wheel.parent.mkdir()
        wheel.touch()
        installed({"url": wheel.as_uri(), "archive_info": {}})
        assert install_command("torch") == FROM_INDEX

        (tmp_path / "dist" / "pattern_core_torch-0.1.0-py3-none-any.whl").touch()
        links = ["--find-links", str(tmp_path / "dist"), "pattern-core[torch]"]
        assert shlex.split(install_command("torch")) == ["pip", "install", *links]

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Modules on the path without a distribution are no error."""
        monkeypatch.setattr("sys.path", [str(tmp_path)])

        assert install_command("torch") == FROM_INDEX


def test_the_error_about_a_missing_plugin(installed: Install, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about a missing plugin of this repository has the command for this installation."""
    installed({"url": clone.as_uri(), "dir_info": {}})
    monkeypatch.setattr("pattern_core.plugins.discovery.entry_points", lambda **_: [])

    with pytest.raises(PluginNotFoundError, match="not installed") as caught:
        load_plugin("torch", EmbeddingSpec)
    assert install_command("torch") in str(caught.value)


def test_the_folders_that_plugins_need() -> None:
    """The plugins that need another plugin of this repository are the ones listed, in full."""
    needed = {}
    for file in ROOT.glob("plugins/*/pyproject.toml"):
        names = [re.split(r"[^\w-]", each)[0] for each in tomllib.loads(file.read_text())["project"]["dependencies"]]
        if others := tuple(each.removeprefix("pattern-core-") for each in names if each.startswith("pattern-core-")):
            needed[file.parent.name] = others

    assert needed == REQUIRED
    assert {(ROOT / "plugins" / extra / "pyproject.toml").is_file() for extra in EXTRAS.values()} == {True}
