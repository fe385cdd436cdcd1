"""Rows of a request, with their contexts; arrays in a record's bytes: in their dtype, compressed where that pays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from superposed.config import OriginalKind
from superposed.errors import check_most
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed_service.errors import JournalCorrupt


@dataclass(frozen=True)
class Originals:
    """Texts or images that rows are encoded from."""

    kind: OriginalKind | None  # what they are; None for what the rows' task takes, from bytes
    items: Sequence[str | bytes]  # (B,) texts, or files' bytes


@dataclass(frozen=True)
class RowBatch:
    """Rows as they came in: one context for all of them, or one for each."""

    context: object  # a context for all rows; None where `contexts` is given
    contexts: Sequence[object] | None  # (B,) contexts; None where `context` is given
    inputs: Any  # (B, features): an array, or a list of rows
    originals: Originals | None = None  # what the rows are encoded from; in place of `inputs`, until they are

    @property
    def are_records(self) -> bool:
        """True for records of named values."""
        values = self.inputs
        return isinstance(values, list | tuple) and bool(values) and isinstance(values[0], Mapping)

    def __len__(self) -> int:
        try:
            return len(self.inputs if self.originals is None else self.originals.items)
        except TypeError:
            return 0

    def check(self, most_rows: int, most_numbers: int) -> None:
        """Raise `CapacityExceeded` for too many rows, contexts or numbers in a row, before anything reads them."""
        check_most("more rows than one request may have", max(len(self), len(self.contexts or ())), most_rows)
        shape = getattr(self.inputs, "shape", None)
        if shape is None:
            lists = self.inputs if isinstance(self.inputs, list) else []
            longest = max((len(row) for row in lists if isinstance(row, list | dict)), default=0)
        else:
            longest = math.prod(shape[1:])
        check_most("more numbers in a row than there may be", longest, most_numbers)

    def batch(self, store: WeightStore, *, learning: bool = False) -> Batch:
        """Check the rows against the store's tasks; with `learning`, for an update.

        Raise `ContextError` for a context that cannot be addressed, and `InputError` for rows that cannot be used.
        """
        if self.contexts is None:
            return store.batch(self.context, self.inputs, learning=learning)
        return store.batch_per_row(self.contexts, self.inputs, learning=learning)


_RAW, _ZSTD = b"\x00", b"\x01"
_COMPRESSOR_LEVEL = 1
_WORTH_IT = 0.9
_SAMPLE_BYTES = 16_384
# What plain JSON numbers are read as, and narrower types that may hold the same numbers.
_NARROWER: Mapping[str, tuple[type[np.generic], ...]] = {
    "int64": (np.uint8, np.int16, np.int32),
    "float64": (np.uint8, np.int16, np.float32),
}


def narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same numbers, every one of them, in a narrower dtype where there is one."""
    for dtype in _NARROWER.get(array.dtype.name, ()):
        with np.errstate(over="ignore", invalid="ignore"):
            candidate = array.astype(dtype)
        if candidate.astype(array.dtype).tobytes() == array.tobytes():  # the sign of a zero counts too
            return candidate
    return array


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays by name as bytes: safetensors, compressed with zstd where that saves a tenth."""
    plain = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    compress = zstandard.ZstdCompressor(level=_COMPRESSOR_LEVEL).compress
    middle = len(plain) // 2
    sample = plain[middle : middle + _SAMPLE_BYTES]  # numbers that do not compress are not all tried
    if len(compress(sample)) >= _WORTH_IT * len(sample):
        return _RAW + plain
    packed = compress(plain)
    return _ZSTD + packed if len(packed) < _WORTH_IT * len(plain) else _RAW + plain


def unpack(payload: bytes) -> dict[str, NDArray[Any]]:
    """Return the inverse of `pack`; raise `JournalCorrupt` for bytes that are no such arrays."""
    try:
        body = payload[1:]
        return load(zstandard.ZstdDecompressor().decompress(body) if payload[:1] == _ZSTD else body)
    except (zstandard.ZstdError, SafetensorError) as error:
        raise JournalCorrupt("a record's payload cannot be read", received=str(error)) from error
