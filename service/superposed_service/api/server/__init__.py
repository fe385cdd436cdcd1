"""The HTTP server: uvicorn, connection deadlines, the bind address."""
