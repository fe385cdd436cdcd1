"""Labels of classes: their types, and their texts."""

import datetime
import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import PlainValidator, WithJsonSchema

LabelType: TypeAlias = Literal["bool", "int", "float", "str", "datetime"]


def _plain_label(value: object) -> object:
    """Return a value that can be a label, whole numbers of 64 bits; raise `ValueError` for others."""
    good = (
        isinstance(value, bool)
        or (isinstance(value, int) and -(2**63) <= value < 2**64)
        or (isinstance(value, float) and math.isfinite(value))
        or (isinstance(value, str) and len(value) <= 256)
    )
    if not good:
        raise ValueError("a label is a bool, a finite number of 64 bits, or a text of up to 256 characters")
    return value


Label: TypeAlias = Annotated[
    bool | int | float | str,
    PlainValidator(_plain_label),
    WithJsonSchema({"anyOf": [{"type": kind} for kind in ("boolean", "integer", "number", "string")]}),
]


def label_type(labels: Sequence[object]) -> LabelType:
    """Return the one type of labels, float for whole numbers beside fractions; raise `ValueError` for several."""
    kinds = {type(label) for label in labels}
    if kinds == {int, float}:
        return "float"
    if len(kinds) != 1:
        raise ValueError("labels of different types: give all of them as bool, number, or text")
    found: dict[type, LabelType] = {bool: "bool", int: "int", float: "float", str: "str"}
    return found[kinds.pop()]


def is_time(label: Label) -> bool:
    """Return True for a text that is a time in ISO 8601."""
    try:
        return isinstance(label, str) and datetime.datetime.fromisoformat(label) is not None
    except ValueError:
        return False


def plain_target(target: object) -> object:
    """Return a target of a numpy type as the Python value that it holds."""
    return target.item() if isinstance(target, np.generic) else target


def label_text(label: Label) -> str:
    """Return a label as text, as JSON writes it; a text is itself."""
    return label if isinstance(label, str) else repr(label).lower() if isinstance(label, bool) else repr(label)


def is_label(target: object, kind: LabelType) -> bool:
    """Return True if a target has the type of labels."""
    if kind in {"int", "float"}:
        return isinstance(target, int | float) and not isinstance(target, bool)
    return isinstance(target, bool if kind == "bool" else str)
