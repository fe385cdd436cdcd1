"""Metrics, logs and traces. Nothing here changes what the service does."""
