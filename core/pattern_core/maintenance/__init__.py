"""What keeps a database in order: migrations and backups."""
