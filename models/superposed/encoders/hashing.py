"""Texts as signed hashes of their n-grams: of words and word pairs, and of 3 to 5 characters of a word.

Source: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from superposed.config import MAX_WIDTH, OriginalKind
from superposed.errors import ConfigError

_WORD = re.compile(r"\w+|[^\w\s]")
_CHARACTERS = (3, 4, 5)
_SIGN = 1 << 31


@dataclass(frozen=True)
class HashEncoder:
    """Texts as rows of `width` numbers and unit length; a text without words is all zeros."""

    width: int = 1024
    kind: ClassVar[OriginalKind] = "texts"

    @classmethod
    def of(cls, argument: str) -> Self:
        """Return the encoder of a width in text, empty for the default; raise `ConfigError` for no width."""
        if not argument:
            return cls()
        if not (argument.isascii() and argument.isdigit() and 1 <= int(argument) <= MAX_WIDTH):
            raise ConfigError("hash: not a width", expected=f"1 to {MAX_WIDTH}", received=argument)
        return cls(int(argument))

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that encode alike."""
        return f"hash-1:{self.width}"

    def encode(self, items: Sequence[Any], places: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return rows (B, width) float32."""
        rows = np.zeros((len(items), self.width), dtype=np.float32)
        for row, text in zip(rows, items, strict=True):
            hashes = np.fromiter(map(zlib.crc32, _pieces(text)), dtype=np.uint32)
            np.add.at(row, hashes % self.width, np.where(hashes & _SIGN, 1, -1))
            row /= max(float(np.linalg.norm(row)), 1.0)
        return rows


def _pieces(text: str) -> Iterator[bytes]:
    """Return the n-grams of a text."""
    words = _WORD.findall(text.lower())
    for first, second in zip(words, [*words[1:], ""], strict=False):
        yield f"w{first}".encode()
        yield f"p{first} {second}".encode()
        framed = f" {first} "
        for length in _CHARACTERS:
            for start in range(len(framed) - length + 1):
                yield framed[start : start + length].encode()
