"""Turn arrays, tensors, data frames, sparse matrices, texts and images into plain arrays and values."""

import base64
import datetime
import io
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superposed_client._foreign import optional


def plain_values(values: Any) -> Any:
    """Return nested lists of plain numbers and strings from arrays, tensors, data frames and lists."""
    values = plain_rows(values)
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list | tuple | range):
        return [plain_values(value) for value in values]
    return plain_value(values)


def plain_value(value: Any) -> Any:
    """Return one number, string, bool or None, as JSON has them; raise `ValueError` for a missing value or a date."""
    if isinstance(value, str | bool | int | float | None):
        return value
    if isinstance(value, np.generic):
        return plain_value(value.item()) if not isinstance(value, np.longdouble) else float(value)
    if isinstance(value, numbers.Real) or type(value).__name__ == "Decimal":
        return float(value)
    if type(value).__name__ in {"NAType", "NaTType"}:
        raise ValueError(f"a missing value ({value}): fill it in, or leave its row out")
    if isinstance(value, datetime.date | datetime.timedelta):
        raise ValueError(f"a {type(value).__name__} ({value}): turn it into a number first")
    if isinstance(value, Mapping):
        raise ValueError("a row or target by name (a dict): give a list of numbers in a fixed order")
    raise ValueError(f"a {type(value).__name__}, which is neither a number nor a string")


def plain_rows(values: Any) -> Any:
    """Unwrap arrays: data frames, tensors (also those that need a gradient) and sparse matrices.

    Return a numpy array that can be sent, or the nested values as they are. Raise `ValueError` for an array that
    holds something that is neither a number nor a string.
    """
    if hasattr(values, "toarray"):  # scipy's sparse matrices and arrays
        values = values.toarray()
    elif hasattr(values, "to_numpy"):  # pandas, polars
        values = values.to_numpy()
    elif hasattr(values, "detach"):  # torch
        values = values.detach().cpu()
        try:
            values = values.numpy()
        except TypeError:  # a dtype that numpy does not have, such as bfloat16
            values = values.double().numpy()
    elif hasattr(values, "__array__") and not isinstance(values, np.generic):  # pandas' Categorical
        values = np.asarray(values)
    if isinstance(values, np.ndarray):
        return _sendable(values)
    return values


def _sendable(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of a dtype that goes over the wire."""
    if array.dtype == np.longdouble:
        return array.astype(np.float64)
    if array.dtype.kind in "mM":
        raise ValueError(f"dates or durations ({array.dtype}): turn them into numbers first")
    if array.dtype.kind != "O":
        return array
    plain = np.empty(array.shape, dtype=object)
    for place, value in np.ndenumerate(array):
        try:
            plain[place] = value if isinstance(value, list | tuple) else plain_value(value)
        except ValueError as error:
            names = zip(("row", "column"), place, strict=False)
            where = ", ".join(f"{name} {number}" for name, number in names) or "the value"
            raise ValueError(f"at {where}: {error}") from None
    numeric = all(isinstance(value, int | float) for value in plain.flat)
    return np.asarray(plain.tolist()) if numeric and array.size else plain


def inputs_of(inputs: Any, *, by_name: bool = True) -> NDArray[Any] | list[Any]:
    """Return rows as they are sent: records, texts or images in a list, other rows as an array of numbers.

    The rows are an array, tensor, sparse matrix, data frame, list of rows, or list of dicts; texts or images. A data
    frame is rows `by_name`, or else an array of numbers. A `ValueError` says what to pass instead of other rows.
    """
    if isinstance(inputs, Mapping):
        raise ValueError("one row by name (a dict): wrap it in a list")
    if (originals := originals_of(inputs)) is not None:
        return originals
    if _is_list_of(inputs, Mapping):
        return [_record(record, row) for row, record in enumerate(inputs)]
    if by_name and is_by_name(inputs):
        return _records_of_frame(inputs)
    return rows_of(inputs)


def is_by_name(inputs: Any) -> bool:
    """Return True for a list of dicts, and for a data frame."""
    frame = hasattr(inputs, "columns") and hasattr(inputs, "to_numpy")
    return frame or isinstance(inputs, Mapping) or _is_list_of(inputs, Mapping)


def _record(record: Any, row: int) -> Any:
    """Return one row by name; among rows of several tasks one may be numbers."""
    if not isinstance(record, Mapping):
        return plain_values(record)
    for name in record:
        if not isinstance(name, str):
            raise ValueError(f"row {row} has a name that is no text: {name!r}")
    return {name: _value(value, row, name) for name, value in record.items()}


def _records_of_frame(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a data frame (pandas, polars) by the names of its columns."""
    if hasattr(frame, "to_dicts"):
        return [_record(record, row) for row, record in enumerate(frame.to_dicts())]
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names) or getattr(frame.columns, "nlevels", 1) > 1:
        raise ValueError("columns need one name each, told apart as text, and one level")
    records = frame.set_axis(names, axis=1).to_dict("records")
    return [_record(record, row) for row, record in enumerate(records)]


def _value(value: Any, row: int, name: object) -> Any:
    """Return one value of a row by name: a number, a text, a bool, or None where it is missing."""
    if type(value).__name__ in {"NAType", "NaTType"} or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(np.datetime_as_string(value))
    if isinstance(value, np.timedelta64):
        value = value.astype("m8[us]").item()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    try:
        plain = plain_value(value)
    except ValueError as error:
        raise ValueError(f"at row {row}, {name!r}: {error}") from None
    return None if isinstance(plain, float) and plain != plain else plain


def rows_of(inputs: Any) -> NDArray[Any]:
    """Return rows of equally many numbers (B, features) as an array; a `ValueError` says what to pass instead."""
    if hasattr(inputs, "to_numpy") and getattr(inputs, "ndim", 2) == 1:
        raise ValueError("one column or row (a Series): pass a DataFrame, or series.to_numpy().reshape(1, -1)")
    try:
        array = np.asarray(plain_rows(inputs))
        array = _sendable(array) if array.dtype.kind == "O" else array
    except (TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"inputs cannot be read as rows of numbers, all of one length: {error}") from error
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.ndim != 2:
        advice = "wrap one row in a list" if array.ndim < 2 else "flatten each row, X.reshape(len(X), -1)"
        raise ValueError(f"inputs have the shape {array.shape}, expected (rows, features): {advice}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"inputs are not numbers, but {array.dtype}: encode text and categories first")
    return array


def _is_list_of(values: Any, kind: type) -> bool:
    return isinstance(values, list | tuple) and any(isinstance(value, kind) for value in values)


def targets_of(y: Any) -> NDArray[Any]:
    """Return targets (B,) or, of several values each, (B, n) as an array; one column (B, 1) is flattened.

    Times become texts, in numpy's form and in nanoseconds. Raise `ValueError` for anything but bools, numbers,
    texts and times.
    """
    try:
        plain = plain_values(_times_as_text(y))
        kinds = {type(value) for value in plain} if isinstance(plain, list) else set()
        # Of mixed types, such as 1 and "1", numpy would make one; the server tells them apart.
        array = np.asarray(plain, dtype=None if len(kinds) <= 1 or kinds == {int, float} else object)
    except ValueError as error:
        raise ValueError(f"targets: {error}") from None
    if array.ndim == 0:
        raise ValueError("targets are one value, expected one target for each row: wrap it in a list")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def labels_of(labels: Any) -> tuple[list[Any], str | None]:
    """Return labels as JSON has them, and their form where they are times; raises as `targets_of`."""
    plain = _times_as_text(labels)
    return plain_values(plain), None if plain is labels else "datetime"


def _times_as_text(values: Any) -> Any:
    """Return times as texts that sort as they do; other values as they are."""
    dtype = getattr(values, "dtype", None)
    if getattr(dtype, "tz", None) is not None:
        raise ValueError(f"times with a time zone ({dtype}): convert them, series.dt.tz_convert(None)")
    if isinstance(values, list | tuple) and values and isinstance(values[0], datetime.date | np.datetime64):
        if any(getattr(value, "tzinfo", None) is not None for value in values):
            raise ValueError("times with a time zone: convert them to one, and take it off")
        values = np.asarray(values, dtype="M8[us]")
    array = values if isinstance(values, np.ndarray) else None
    if getattr(dtype, "kind", "") == "M" and hasattr(values, "to_numpy"):
        array = values.to_numpy()
    if array is None or array.dtype.kind != "M":
        return values
    if np.isnat(array).any():
        raise ValueError("a missing value (NaT): fill it in, or leave its row out")
    exact = array.astype("M8[ns]")
    if not np.array_equal(exact.astype(array.dtype), array):
        raise ValueError("a time outside of 1678 to 2261, which nanoseconds cannot hold")
    return np.datetime_as_string(exact)


class Image(str):
    """A PNG or JPEG file in base64."""

    __slots__ = ()


def originals_of(inputs: Any) -> list[str] | None:
    """Return texts as strings, or images as `Image`; None for rows of numbers or records.

    Texts are a list, array or Series of them. Images are a list of Pillow images, of paths (`Path`), of files' bytes or
    of arrays, or an array uint8 (B, height, width) or (B, height, width, 3). Raise `ValueError` where some rows are no
    texts or images, and for one text that is in no list; `OSError` for a path that cannot be read.
    """
    if isinstance(inputs, str | bytes | Path) or _is_picture(inputs):
        raise ValueError("one text or image: wrap it in a list")
    first = inputs[0] if isinstance(inputs, list | tuple | np.ndarray) and len(inputs) else None
    if isinstance(first, np.ndarray) and first.ndim in {2, 3}:
        return [_of_array(one, place) for place, one in enumerate(inputs)]
    values = inputs.tolist() if getattr(inputs, "ndim", 0) == 1 and hasattr(inputs, "tolist") else inputs
    if not isinstance(values, list | tuple) or not values:
        return None
    read = _plain if isinstance(values[0], str) else _of_file if isinstance(values[0], bytes | Path) else _of_picture
    if read is _of_picture and not _is_picture(values[0]):
        return None
    return [read(one, place) for place, one in enumerate(values)]


def originals_form(rows: Any) -> dict[str, Any] | None:
    """Return the field of a body for what `originals_of` returned; None for other rows."""
    if not (isinstance(rows, list) and rows and isinstance(rows[0], str)):
        return None
    return {"images" if isinstance(rows[0], Image) else "texts": rows}


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "save")


def _plain(value: Any, place: int) -> str:
    if not isinstance(value, str):
        raise ValueError(f"row {place} is no text, as the first is, but a {type(value).__name__}")
    return value if isinstance(value, Image) else str(value)


def _of_file(value: Any, place: int) -> Image:
    value = value.read_bytes() if isinstance(value, Path) else value
    if not isinstance(value, bytes):
        raise ValueError(f"row {place} is no file's path or bytes, as the first is, but a {type(value).__name__}")
    return Image(base64.b64encode(value).decode())


def _of_picture(value: Any, place: int) -> Image:
    if not _is_picture(value):
        raise ValueError(f"row {place} is no image, as the first is, but a {type(value).__name__}")
    buffer = io.BytesIO()
    value = value.convert("RGB") if value.mode in {"CMYK", "YCbCr", "LAB", "HSV"} else value
    try:
        value.save(buffer, "PNG")
    except OSError as error:
        raise ValueError(f"row {place} is an image of mode {value.mode}: convert it to L or RGB") from error
    return _of_file(buffer.getvalue(), place)


def _of_array(array: Any, place: int) -> Image:
    kind = getattr(array, "dtype", type(array).__name__)
    if kind != np.uint8:
        advice = "to send rows of numbers, flatten each row, X.reshape(len(X), -1)"
        raise ValueError(f"row {place} is no image as an array, uint8 from 0 to 255, but {kind}; {advice}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] not in {3, 4}:
        raise ValueError(f"row {place} is no image of 1, 3 or 4 channels, but {array.shape}")
    pillow = optional("PIL.Image", "images as arrays need Pillow", "pillow")
    return _of_picture(pillow.fromarray(array), place)
