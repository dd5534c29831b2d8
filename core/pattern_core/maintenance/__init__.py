"""Maintenance: migrations, re-embedding, backups, verification and vector indexes.

Imports `sessions` and below.
"""
