"""One running service: the engine, snapshots, events, background work."""
