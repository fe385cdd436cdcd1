"""Texts and images as they are sent."""

import base64
import io
from typing import Any

import numpy as np

from superposed_client._foreign import optional


class Image(str):
    """A PNG or JPEG file in base64."""

    __slots__ = ()


def originals_of(inputs: Any) -> list[str] | None:
    """Return texts as strings, or images as `Image`; None for rows of numbers or records.

    Texts are a list, array or Series of them. Images are a list of Pillow images, of files' bytes or of arrays, or an
    array uint8 (B, height, width) or (B, height, width, 3). Raise `ValueError` where some rows are no texts or images,
    and for one text that is in no list.
    """
    if isinstance(inputs, str | bytes) or _is_picture(inputs):
        raise ValueError("one text or image: wrap it in a list")
    first = inputs[0] if isinstance(inputs, list | tuple | np.ndarray) and len(inputs) else None
    if isinstance(first, np.ndarray) and first.ndim in {2, 3}:
        return [_of_array(one, place) for place, one in enumerate(inputs)]
    values = inputs.tolist() if getattr(inputs, "ndim", 0) == 1 and hasattr(inputs, "tolist") else inputs
    if not isinstance(values, list | tuple) or not values:
        return None
    read = _plain if isinstance(values[0], str) else _of_file if isinstance(values[0], bytes) else _of_picture
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
    if not isinstance(value, bytes):
        raise ValueError(f"row {place} is no file's bytes, as the first is, but a {type(value).__name__}")
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
        raise ValueError(
            f"row {place} is no image as an array, uint8 from 0 to 255, but {kind};"
            " to send rows of numbers, flatten each row, X.reshape(len(X), -1)"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] not in {3, 4}:
        raise ValueError(f"row {place} is no image of 1, 3 or 4 channels, but {array.shape}")
    pillow = optional("PIL.Image", "images as arrays need Pillow", "pillow")
    return _of_picture(pillow.fromarray(array), place)
