"""The safetensors format, as far as a model and its rows need it: length, JSON header, raw tensors.

Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dump", "parse"]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_METADATA = "superposed"


def dump(tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    """Return tensors (cast to float32 unless they are float64) and one metadata entry of canonical JSON."""
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {_METADATA: text}}
    parts: list[bytes] = []
    offset = 0
    for name, values in sorted(tensors.items()):
        array = np.asarray(values)
        kind = "F64" if array.dtype == np.float64 else "F32"
        data = np.ascontiguousarray(array, dtype=_DTYPES[kind]).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + b"".join(parts)


def parse(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the inverse of `dump`.

    Raises:
        ValueError: Not such a file.
    """
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        metadata = json.loads(header.pop("__metadata__")[_METADATA])
        body = data[8 + length :]
        tensors = {
            name: np.frombuffer(body[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]]).reshape(
                entry["shape"]
            )
            for name, entry in header.items()
        }
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise ValueError("not a model as `Client.model` gives it") from error
    return tensors, metadata
