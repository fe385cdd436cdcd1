"""What an error says of a value that it must not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["outline"]


def outline(value: object) -> str:
    """What kind of value it is, without showing it: rows and labels do not belong in errors."""
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return type(value).__name__
