"""The verbs of the program ``pattern``, one module for each verb or group of verbs.

Imports the modules of ``pattern_core.cli`` and below; heavy modules only inside functions.
"""
