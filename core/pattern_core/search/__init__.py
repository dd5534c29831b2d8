"""The built-in vector search `exact`, and how indexes follow the storage.

Imports `catalog`, contracts and `support`.
"""
