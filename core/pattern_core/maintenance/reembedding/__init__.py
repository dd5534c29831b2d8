"""Re-embedding: build a generation of vectors with another model, switch to it, and drop previous ones.

Imports `sessions` and below.
"""
