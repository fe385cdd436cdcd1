"""Measurements of a store: crosstalk, interference, capacity, task inference, retrieval."""
