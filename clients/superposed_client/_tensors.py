"""Binary tensors on the wire: a JSON head, then raw numbers, little-endian and row-major."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superposed_client._arrays import plain_value

MEDIA_TYPE = "application/vnd.superposed.tensors"
HEAD_LENGTH = "Inference-Header-Content-Length"

_DATATYPES = {
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DATATYPES.items()}
_NARROWER = {"float64": ("<f4",), "int64": ("u1", "<i2", "<i4")}


def as_tensor(values: Any) -> NDArray[Any] | None:
    """Return rows or numbers as an array in the narrowest dtype that holds all of them exactly.

    None for what is no rectangle of numbers: the server then says what is wrong with it.
    """
    if isinstance(values, list | tuple) and any(isinstance(value, bool) for value in values):
        return None  # among numbers they would become some
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return None
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype not in _NAMES or not array.size:
        return None
    for code in _NARROWER.get(array.dtype.name, ()):
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = array.astype(code)
        if np.array_equal(narrow, array):
            return narrow
    return array


def dump(body: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return the bytes of a body whose arrays are sent as tensors, and how long its JSON head is."""
    arrays = {name: value for name, value in body.items() if isinstance(value, np.ndarray)}
    head = {
        name: {"datatype": _NAMES[arrays[name].dtype], "shape": arrays[name].shape} if name in arrays else value
        for name, value in body.items()
    }
    text = json.dumps(head, separators=(",", ":"), default=plain_value).encode()
    return b"".join([text, *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]), len(text)


def parse(body: bytes, head_length: int) -> dict[str, Any]:
    """Return the inverse of `dump`, tensors as nested lists; raise `ValueError` for other bytes."""
    values: dict[str, Any] = json.loads(body[:head_length])
    place = head_length
    for name, value in values.items():
        if isinstance(value, dict) and "datatype" in value:
            dtype = np.dtype(_DATATYPES[value["datatype"]])
            count = int(np.prod(value["shape"]))
            array = np.frombuffer(body, dtype=dtype, count=count, offset=place)
            values[name] = array.reshape(value["shape"]).tolist()
            place += array.nbytes
    return values
