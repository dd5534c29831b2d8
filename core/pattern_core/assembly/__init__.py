"""Assembly: from a configuration to opened storage, vector search and embedding model."""
