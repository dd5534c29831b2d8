"""Embeddings by sentence-transformers on PyTorch for pattern-core."""
