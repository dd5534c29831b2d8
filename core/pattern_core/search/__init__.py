"""Vector search: the built-in exact index, and how indexes are kept in agreement with the storage."""
