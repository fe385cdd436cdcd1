"""Cells: many stores behind one address, on Ray."""
