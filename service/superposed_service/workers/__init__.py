"""HTTP workers: processes in front of the engine's that accept connections and read JSON rows for it."""
