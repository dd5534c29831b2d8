"""LanceDB as storage and vector search for pattern-core."""
