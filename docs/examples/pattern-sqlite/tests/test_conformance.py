"""The plugin keeps the contract of a storage."""

from pathlib import Path

import pytest

from pattern_core.testing import StorageContract
from pattern_sqlite.plugin import SqliteOptions, pattern_storage


class TestSqlite(StorageContract):
    """Every rule of the kit."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> SqliteOptions:
        """A file that is not there yet."""
        return SqliteOptions(path=tmp_path / "pattern.sqlite")
