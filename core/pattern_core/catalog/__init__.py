"""Internal tables, and the metadata of a database: schema version and generations of vectors.

Imports contracts, tables and `support`.
"""
