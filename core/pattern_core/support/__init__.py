"""Small tools without a subject of their own: validators, the clock, options, cancellation. Imports only errors."""
