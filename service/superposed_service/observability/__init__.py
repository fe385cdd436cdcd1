"""What the service tells of itself: metrics, logs, traces. Nothing here changes what it does."""
