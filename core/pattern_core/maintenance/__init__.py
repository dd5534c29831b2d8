"""Maintenance: migrations, re-embedding, backups and vector indexes. Imports sessions and below."""
