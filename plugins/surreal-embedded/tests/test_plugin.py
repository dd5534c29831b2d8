"""The plugin's hooks, its options, and its imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pattern_core.errors import ConfigError
from pattern_core.hookspecs import StorageSpec, VectorSpec
from pattern_core.testing import MemoryStorage
from pattern_core.toolkit import ExactIndex, load_plugin, structure_options
from pattern_surreal.native import NativeIndex
from pattern_surreal_embedded.plugin import StorageOptions, VectorOptions
from pattern_surreal_embedded.storage import EmbeddedStorage

pytestmark = pytest.mark.anyio


async def test_the_plugin_is_found_by_its_names(tmp_path: Path) -> None:
    """The names in the configuration load the storage and its indexes."""
    storage_spec, vector_spec = load_plugin("embedded", StorageSpec), load_plugin("surreal-embedded", VectorSpec)
    assert storage_spec.vectors == "surreal-embedded"
    given = {"path": "here.db", "strict_mode": True}
    options = structure_options(storage_spec.options, given, section="database", base=tmp_path)
    assert options == StorageOptions(path=tmp_path / "here.db", strict_mode=True)
    async with await storage_spec.open(options) as storage:
        assert isinstance(storage, EmbeddedStorage)
        async with await vector_spec.open(VectorOptions(), storage) as vectors:
            assert isinstance(vectors, ExactIndex)
        async with await vector_spec.open(VectorOptions(index="native"), storage) as vectors:
            assert isinstance(vectors, NativeIndex)
    assert (tmp_path / "here.db").is_dir()


async def test_the_native_index_needs_surrealdb() -> None:
    """The engine's index cannot search the vectors of another storage; the index in this process can."""
    spec = load_plugin("surreal-embedded", VectorSpec)
    async with MemoryStorage() as storage:
        with pytest.raises(ConfigError, match="native") as caught:
            await spec.open(VectorOptions(index="native"), storage)
        assert caught.value.key == "vectors.index"
        assert isinstance(await spec.open(VectorOptions(), storage), ExactIndex)


@pytest.mark.parametrize("given", [{"efc": 0}, {"m": 1}, {"ef": 0}, {"ef": 5000}, {"index": "hnsw"}, {"efc": "150"}])
def test_options_are_checked(given: dict[str, object]) -> None:
    """A value that the index cannot use is rejected, and the error names the option."""
    with pytest.raises(ConfigError, match=next(iter(given))):
        structure_options(VectorOptions, given, section="vectors", base=Path())


def test_importing_the_plugin_imports_no_engine() -> None:
    """The module with the hooks imports no SDK, engine or Arrow."""
    program = (
        "import sys; import pattern_surreal_embedded.plugin as plugin; plugin.pattern_storage(); "
        "plugin.pattern_vectors(); print(*sorted({'surrealdb', 'surrealdb_embedded', 'pyarrow', 'pattern_surreal'} & "
        "sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.split() == []
