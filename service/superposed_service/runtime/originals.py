"""Texts and images of a request: which encoder reads them, and their bytes."""

import base64
import binascii
from collections.abc import Sequence

from superposed.config import OriginalKind
from superposed.encoders import check_items
from superposed.encoders.pixels import SIGNATURES
from superposed.errors import InputError, ShapeError, redacted
from superposed.tasks.schema import TaskSchema
from superposed_service.changes.rows import Originals


def read_as(originals: Originals, schemas: Sequence[TaskSchema]) -> tuple[str, list[str]]:
    """Return the encoder that the tasks of texts or images (B,) have, and each one's task, of its schemas (B,).

    Raise `ShapeError` where a task takes something else, or they have several encoders.
    """
    encoders: dict[str, str] = {}
    for schema in schemas:
        if schema.encoder is None or originals.kind not in {None, schema.kind}:
            text = f"task {schema.key} takes {schema.kind}, not {originals.kind or 'texts or images'}"
            wanted = schema.kind if schema.kind != "rows" else "inputs: rows of numbers"
            raise ShapeError(text, expected=wanted, received=originals.kind or "bytes")
        encoders.setdefault(schema.encoder, schema.key)
    if len(encoders) > 1:
        text = "rows of several encoders in one request: send one request for each"
        raise ShapeError(text, expected="tasks of one encoder", received=", ".join(encoders))
    return next(iter(encoders)), [schema.key for schema in schemas]


def items_of(originals: Originals, kind: OriginalKind) -> list[str | bytes]:
    """Return texts as strings, and images as the bytes of their files.

    Raise `InputError` for what is no text or image, or too large; `EncoderUnavailable` where a package is missing.
    """
    read = _text if kind == "texts" else _image
    items = [read(item, place) for place, item in enumerate(originals.items)]
    check_items(kind, items)
    return items


def _text(item: str | bytes, place: int) -> str:
    try:
        return item.decode() if isinstance(item, bytes) else item
    except UnicodeDecodeError:
        raise InputError(f"text {place} is not UTF-8") from None


def _image(item: object, place: int) -> bytes:
    if isinstance(item, bytes) and item.startswith(SIGNATURES):
        return item
    try:
        return base64.b64decode(item, validate=True)  # type: ignore[arg-type]  # what it is no other way is told
    except (binascii.Error, TypeError, ValueError):
        wanted = "a PNG or JPEG file in base64"
        raise InputError(f"image {place} is not base64", expected=wanted, received=redacted(item)) from None
