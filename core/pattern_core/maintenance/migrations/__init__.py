"""Migrations: bring the schema of a database from one version to another, one process at a time."""
