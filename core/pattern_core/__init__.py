"""Durable, searchable memory for AI agents."""
