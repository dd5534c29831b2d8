"""From texts to vectors: models, token limits, chunks, the vector cache; the built-in embedder `hashing`.

Imports contracts, configuration and `support`.
"""
