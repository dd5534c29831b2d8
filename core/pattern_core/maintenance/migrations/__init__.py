"""Migrations: move a database from one schema version to another, one process at a time.

Imports backups, `catalog` and below.
"""
