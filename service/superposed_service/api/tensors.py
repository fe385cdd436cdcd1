"""Binary tensors: a JSON head, then the raw numbers of its tensors, little-endian and row-major, in order.

The framing and the names of datatypes are those of the Open Inference Protocol's binary extension; how long
the head is stands in the header `Inference-Header-Content-Length`.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superposed.errors import ShapeError, check_most
from superposed_service.errors import InvalidRequest

TENSORS_MEDIA_TYPE = "application/vnd.superposed.tensors"
HEAD_LENGTH = "inference-header-content-length"
_MOST_DIMENSIONS = 8
_LARGEST = 2**40
_MOST_TEXTS = 65_536

_CODES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
DATATYPES: Mapping[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in _CODES.items()}
# The protocol's names of dtypes.
DATATYPE_OF = {dtype: name for name, dtype in DATATYPES.items()}


def split(body: bytes, head_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON head of a body and what follows it; without `Inference-Header-Content-Length` all is head.

    Raise `InvalidRequest` where the header's value is no length within the body.
    """
    if head_length is None:
        return body, memoryview(b"")
    text = head_length.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= len(body)):
        wrong, wanted = "is not the length of the JSON head", f"a number from 0 to {len(body)}"
        raise InvalidRequest(f"Inference-Header-Content-Length {wrong}", expected=wanted, received=head_length[:100])
    return body[: int(text)], memoryview(body)[int(text) :]


class TensorReader:
    """Takes tensors from what follows a head, one after another; every size is checked before it is used."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def take(self, name: str, datatype: object, shape: object, size: object = None) -> NDArray[Any]:
        """Return the next tensor, sharing memory with the body; BYTES as an object array of bytes.

        `datatype` is one of `DATATYPES`, or BYTES; `size` is the number of its bytes, where that is said. Raise an
        `InvalidRequest` that calls it `name` where the description is no tensor's, or the bytes end too early.
        """
        dimensions = read_shape(name, shape)
        count = math.prod(dimensions)
        if datatype == "BYTES":
            return self._take_bytes(name, dimensions, count, size)
        if not isinstance(datatype, str) or datatype not in DATATYPES:
            known = [*DATATYPES, "BYTES"]
            raise InvalidRequest(f"{name}: not a datatype", expected=f"one of {known}", received=datatype)
        dtype = DATATYPES[datatype]
        raw = self._slice(name, count * dtype.itemsize, size)
        return np.frombuffer(raw, dtype=dtype).reshape(dimensions)

    def _slice(self, name: str, wanted: int, size: object) -> memoryview:
        if size is not None and size != wanted:
            raise InvalidRequest(f"{name}: size and shape do not match", expected=wanted, received=size)
        raw = self._data[self._place : self._place + wanted]
        if (left := len(raw)) < wanted:
            raise InvalidRequest(f"{name}: the body ends before the tensor", expected=f"{wanted} bytes", received=left)
        self._place += wanted
        return raw

    def _take_bytes(self, name: str, dimensions: Sequence[int], count: int, size: object) -> NDArray[np.object_]:
        """Return elements with a length of 4 bytes before each."""
        check_most(f"{name}: too many texts", count, _MOST_TEXTS)
        left = len(self._data) - self._place
        if not isinstance(size, int) or isinstance(size, bool) or not 4 * count <= size <= left:
            fitting = f"{4 * count} to {left}"
            raise InvalidRequest(f"{name}: not the size of a BYTES tensor", expected=fitting, received=size)
        raw = self._slice(name, size, size)
        elements: list[bytes] = []
        place = 0
        for _ in range(count):
            length = struct.unpack_from("<I", raw, place)[0] if place + 4 <= size else size
            place += 4
            if place + length > size:
                raise InvalidRequest(f"{name}: an element is longer than its tensor")
            elements.append(bytes(raw[place : place + length]))
            place += length
        if place != size:
            raise InvalidRequest(f"{name}: bytes are left over after its elements", received=size - place)
        return np.asarray([*elements, None], dtype=object)[:-1].reshape(dimensions)

    def finish(self) -> None:
        """Raise `InvalidRequest` where bytes are left over."""
        if (left := len(self._data) - self._place) > 0:
            raise InvalidRequest("bytes are left over after the last tensor", received=left)


def read_shape(name: str, shape: object) -> list[int]:
    """Return the dimensions of a shape; raise `ShapeError` for what is none."""
    dimensions = shape if isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS else [-1]
    good = all(type(one) is int and one >= 0 for one in dimensions)
    if not good or math.prod(one or 1 for one in dimensions) > _LARGEST:
        raise ShapeError(f"{name}: not a shape", expected="whole numbers from 0", received=str(shape)[:100])
    return dimensions


def dump_bytes(elements: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor's bytes: each element behind its length."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
