"""What a database knows of itself: its internal tables, schema version and generations of vectors."""
