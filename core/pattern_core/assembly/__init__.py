"""Assembly: from a configuration to opened plugins, a migrated database and a session.

Imports everything below `database`.
"""
