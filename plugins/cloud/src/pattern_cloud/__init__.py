"""Embeddings by OpenAI, Cohere and servers with OpenAI's API, for pattern-core."""
