"""Small tools without a subject of their own: validators, options, clock, cancellation.

Imports only `errors`.
"""
