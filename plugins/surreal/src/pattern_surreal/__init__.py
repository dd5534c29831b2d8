"""What pattern-core's SurrealDB plugins share: the dialect."""
