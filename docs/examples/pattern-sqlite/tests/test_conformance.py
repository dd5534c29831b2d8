"""The plugin keeps the contract of storages."""

from pathlib import Path

import pytest

from pattern_core.testing import StorageContract
from pattern_sqlite.plugin import SqliteOptions, pattern_storage


class TestSqlite(StorageContract):
    """The rules of the kit."""

    spec = pattern_storage()

    @pytest.fixture
    def options(self, tmp_path: Path) -> SqliteOptions:
        """Options of a file that does not exist."""
        return SqliteOptions(path=tmp_path / "pattern.sqlite")
