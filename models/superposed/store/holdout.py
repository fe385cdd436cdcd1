"""Parts of the kept rows, told apart by what a row is."""

from enum import Enum
from zlib import crc32

import numpy as np
from numpy.typing import NDArray


class Split(Enum):
    """Split of kept rows: all of them, or one of two parts that have no row in common.

    What a row is decides: sent again it is in the same part. One in eight is held out.
    """

    ALL = "all"
    LEARNED = "learned"
    HELD_OUT = "held out"

    @property
    def chance(self) -> float:
        """Of a row to belong to it."""
        return {Split.ALL: 1.0, Split.LEARNED: 7 / 8, Split.HELD_OUT: 1 / 8}[self]

    def has(self, split: int) -> bool:
        """Return True if a kept row belongs to the split, by what `splits_of` said of it."""
        return self is Split.ALL or (split == 0) == (self is Split.HELD_OUT)


def splits_of(rows: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return 0 for each row (B, inputs) that is held out, 1 to 7 for others."""
    return np.asarray([crc32(row.tobytes()) % 8 for row in rows.astype(np.float32)], dtype=np.uint8)
