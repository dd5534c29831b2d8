"""Plugin discovery: from a name in the configuration to the spec of an installed plugin, or the command to install it.

Imports contracts, hooks and errors.
"""
