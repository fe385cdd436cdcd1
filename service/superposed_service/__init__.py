"""The HTTP service around one superposed weight store."""
