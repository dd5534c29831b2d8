"""Sessions: how reads, edits, searches and transactions are carried out over one storage and its index.

Imports `embedding`, `search`, `catalog` and below.
"""
