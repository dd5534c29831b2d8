"""Embeddings by an Ollama server for pattern-core."""
