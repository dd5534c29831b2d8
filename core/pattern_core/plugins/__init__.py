"""Plugin discovery: from a name in the configuration to the spec of an installed plugin.

Imports contracts, hooks and errors.
"""
