"""JSON rows to binary tensors, where the engine would read the very same numbers from either."""

from __future__ import annotations

import numpy as np
import orjson

__all__ = ["HEAD_LENGTH", "HOT_PATHS", "TENSORS_MEDIA_TYPE", "is_json", "to_tensors"]

# As in `superposed_service.tensors`, which a worker does not import: it would bring torch with it.
TENSORS_MEDIA_TYPE = b"application/vnd.superposed.tensors"
HEAD_LENGTH = b"inference-header-content-length"
HOT_PATHS = frozenset({b"/v1/infer", b"/v1/update", b"/v1/evaluate"})
_DATATYPES = {np.dtype(np.int64): "INT64", np.dtype(np.float64): "FP64"}


def is_json(content_type: bytes | None) -> bool:
    """Whether the engine would read a body of this type as JSON."""
    return (content_type or b"application/json").partition(b";")[0].strip().lower() == b"application/json"


def to_tensors(body: bytes, most: int) -> tuple[bytes, int] | None:
    """A JSON body with its rows as a binary tensor behind it.

    Args:
        body: What came.
        most: The bytes that a body may have.

    Returns:
        The new body, and how long its JSON head is; None where the body is to go on as it is: it is wrong
        somewhere, and the engine says so, or its rows are no plain matrix.
    """
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("inputs"), list):
        return None
    if any(isinstance(value, dict) and "datatype" in value for value in values.values()):
        return None  # with a tensor behind it, it would mean one too
    try:
        rows = np.asarray(values["inputs"])
    except (ValueError, OverflowError):
        return None
    if rows.ndim != 2 or not rows.size or rows.dtype not in _DATATYPES:
        return None
    values["inputs"] = {"datatype": _DATATYPES[rows.dtype], "shape": rows.shape}
    head = orjson.dumps(values)
    if len(head) + rows.nbytes > most:
        return None
    return head + rows.tobytes(), len(head)
