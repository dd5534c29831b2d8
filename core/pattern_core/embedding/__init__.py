"""From texts to vectors: models, chunks, the vector cache, and the built-in lexical embedder."""
