"""Arrays in the bytes of a journal record: in the dtype they came in, compressed where that pays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from superposed_service.errors import JournalCorrupt

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
