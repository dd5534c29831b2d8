"""What all tests share."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.databases import db, people, wire

__all__ = ["db", "people", "wire"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library is written for asyncio."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Vectors are kept among the temporary files, for these tests and what they start, and not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def clean_tree() -> Iterator[None]:
    """Leave no backups in the tree, where a migration puts those of a configuration that is in no file."""
    left = Path(__file__).parent.parent / "pattern-backups"
    assert not left.exists(), f"{left} was left by an earlier run, or by hand; remove it"
    yield
    assert not left.exists(), f"a test has left {left}; let it work in a folder of its own"


RunInstalled = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_installed(tmp_path: Path) -> RunInstalled:
    """Run Python where the distribution in a folder is installed: ``run_installed(folder, "-m", "pytest", …)``.

    It is installed as an editable one is: its sources are on the path, and beside them what its pyproject says.
    """

    def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        site = tmp_path / "site"
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        words = "\n".join(f"{name} = {value}" for name, value in project["entry-points"]["pattern_core"].items())
        (info / "entry_points.txt").write_text(f"[pattern_core]\n{words}\n")
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
