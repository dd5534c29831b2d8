"""The plugin: its specs, its options, and the cost of importing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pattern_core.errors import ClosedError, ConfigError, StorageError
from pattern_core.hookspecs import StorageSpec
from pattern_core.toolkit import load_plugin, structure_options
from pattern_lancedb.plugin import StorageOptions
from pattern_lancedb.storage import LanceStorage

pytestmark = pytest.mark.anyio


async def test_loading_by_name(tmp_path: Path) -> None:
    """The plugin loads by its name in the configuration, and its storage creates its folder."""
    spec = load_plugin("lancedb", StorageSpec)
    assert (spec.vectors, spec.persistent, spec.processes) == ("lancedb", True, True)
    options = structure_options(spec.options, {"path": "here.lance"}, section="database", base=tmp_path)
    assert options.path == tmp_path / "here.lance"
    async with await spec.open(options) as storage:
        assert isinstance(storage, LanceStorage)
        assert (await storage.health()).engine.startswith("LanceDB 0.")
        with pytest.raises(StorageError, match="language"):
            await storage.execute("SELECT 1")
    with pytest.raises(ClosedError):
        await storage.maintain()
    assert (tmp_path / "here.lance").is_dir()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"log_rows": 0}, "log_rows"),
        ({"log_rows": "1"}, "log_rows"),
        ({"uri": "bucket"}, "uri"),
        ({"access_key": "x"}, "access_key_id"),
    ],
)
def test_options_are_checked(given: dict[str, object], named: str) -> None:
    """An invalid value raises `ConfigError` that names the option."""
    with pytest.raises(ConfigError, match=named):
        structure_options(StorageOptions, given, section="database", base=Path())


def test_a_secret_is_not_shown() -> None:
    """The repr of options does not contain secrets."""
    given = {"uri": "s3://b/p", "secret_access_key": "hidden1", "session_token": "hidden2"}
    assert "hidden" not in repr(structure_options(StorageOptions, given, section="database", base=Path()))


def test_importing_it_imports_no_engine() -> None:
    """Importing the hooks and calling them imports no engine and no Arrow."""
    program = (
        "import sys; import pattern_lancedb.plugin as plugin; plugin.pattern_storage(); plugin.pattern_vectors(); "
        "print(*sorted({'lancedb', 'pyarrow', 'obstore', 'filelock', 'pattern_lancedb.database'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == []
