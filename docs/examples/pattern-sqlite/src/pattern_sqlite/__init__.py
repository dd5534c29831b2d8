"""A storage plugin for pattern-core: records in an SQLite file."""
