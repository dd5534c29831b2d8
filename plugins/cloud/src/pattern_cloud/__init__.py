"""Embeddings by OpenAI, Cohere and servers that speak OpenAI's API, for pattern-core."""
