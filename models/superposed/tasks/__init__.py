"""Tasks: schema, registry, resolved contexts, batches of rows, targets."""
