"""Everything that knows a protocol: HTTP, gRPC, API keys, the web page."""
