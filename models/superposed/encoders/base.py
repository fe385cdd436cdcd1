"""The interface of encoders of texts and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from superposed.config import OriginalKind
from superposed.errors import InputError, redacted

LONGEST_TEXT = 65_536


class Encoder(Protocol):
    """Encodes texts or images as rows of numbers."""

    @property
    def kind(self) -> OriginalKind:
        """Return what it encodes."""

    @property
    def width(self) -> int:
        """Return the number of features of a row."""

    @property
    def fingerprint(self) -> str:
        """Return a text that is equal for encoders that encode alike."""

    def encode(self, items: Sequence[Any]) -> NDArray[np.generic]:
        """Return rows (B, width) of B texts or images, each of its own item alone.

        Raises:
            InputError: One cannot be encoded.
        """


def check_texts(items: Sequence[Any]) -> None:
    """Raise `InputError` where an item is no text, or too long."""
    for place, item in enumerate(items):
        if not isinstance(item, str):
            raise InputError(f"text {place} is no text", expected="a string", received=redacted(item))
        if len(item) > LONGEST_TEXT:
            raise InputError(
                f"text {place} is too long",
                expected=f"{LONGEST_TEXT} characters at most",
                received=len(item),
            )
