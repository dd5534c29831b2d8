"""Storage for pattern-core in an SQLite file."""
