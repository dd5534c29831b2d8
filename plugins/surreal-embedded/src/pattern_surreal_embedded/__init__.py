"""Embedded SurrealDB as storage and vector search for pattern-core."""
