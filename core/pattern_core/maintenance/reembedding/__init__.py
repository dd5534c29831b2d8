"""Re-embedding: build a generation of vectors with another model, switch to it, and remove previous ones."""
