"""Servers that hold the same store."""
