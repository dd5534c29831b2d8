"""A SurrealDB server as storage and vector search for pattern-core."""
