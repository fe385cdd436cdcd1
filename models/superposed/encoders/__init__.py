"""Encoders: from what users have to rows of numbers."""
