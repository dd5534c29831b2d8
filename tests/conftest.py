"""Fixtures of all tests."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.databases import db, open_database, people

__all__ = ["db", "open_database", "people"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The asyncio backend, the only one that the library supports."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep cached vectors in a temporary folder, also those of processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def clean_tree() -> Iterator[None]:
    """Check that no test leaves backups in the source tree, the default folder for a configuration without a file."""
    backups = Path(__file__).parent.parent / "pattern-backups"
    assert not backups.exists(), f"{backups} exists; remove it before the tests"
    yield
    assert not backups.exists(), f"a test has left {backups}; it has to use a temporary folder"


RunInstalled = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_installed(tmp_path: Path) -> RunInstalled:
    """Run Python with the distribution of a folder installed: ``run_installed(folder, "-m", "pytest", …)``.

    The installation is like an editable one: the sources and the metadata of the distribution are on the path.
    """

    def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        site = tmp_path / "site"
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        entries = "\n".join(f"{name} = {value}" for name, value in project["entry-points"]["pattern_core"].items())
        (info / "entry_points.txt").write_text(f"[pattern_core]\n{entries}\n")
        path = os.pathsep.join([str(site), str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(
            [sys.executable, *args],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
