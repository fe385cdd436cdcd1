"""Labels of classes: their types, and the one meaning of a target among them."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import PlainValidator, WithJsonSchema

from superposed.errors import LabelOutOfRange, redacted

LabelType: TypeAlias = Literal["bool", "int", "float", "str", "datetime"]


def _plain_label(value: object) -> object:
    """Return a value that can be a label; whole numbers have 64 bits.

    Raises:
        ValueError: It cannot.
    """
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

_WORDS = {"bool": "true or false", "int": "a number", "float": "a number", "str": "a text", "datetime": "a text"}
_INDEX_LIMIT = 2**31


def label_type(labels: Sequence[object]) -> LabelType:
    """Return the one type of labels; whole numbers beside fractions are floats.

    Raises:
        ValueError: They are of different types.
    """
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


def class_of(target: object, classes: Mapping[Label, int], kind: LabelType | None, outputs: int, task: str) -> int:
    """Return the class that a target means.

    Args:
        target: A label; of a task without labels a class index.
        classes: The class index of each label.
        kind: The type of the labels; None for a task without labels.
        outputs: Number of classes.
        task: The task's key, for errors.

    Raises:
        LabelOutOfRange: The task has no such label, or the target is of another type.
    """
    target = plain_target(target)
    if kind is None:
        return _index(target, outputs, task)
    if is_label(target, kind):
        value: Any = float(target) if kind == "float" else target  # type: ignore[arg-type]  # it is a number
        if (found := classes.get(value)) is not None:
            return int(found)
        raise LabelOutOfRange(
            f"not a label of task {task}",
            expected=f"one of its {outputs} labels; a new one is added by add_labels or grow_labels",
            received=_shown(target),
        )
    raise LabelOutOfRange(
        f"a target of another type than the labels of task {task}",
        expected=f"a label, {_WORDS[kind]}",
        received=_readings(target, classes, outputs),
    )


def _index(target: object, outputs: int, task: str) -> int:
    number = target if isinstance(target, int | float) and not isinstance(target, bool) else None
    if number is not None and 0 <= number < min(outputs, _INDEX_LIMIT) and number == int(number):
        return int(number)
    raise LabelOutOfRange(
        f"not a class of task {task}, which was registered without labels",
        expected=f"a class index, 0 to {outputs - 1}",
        received=_shown(target),
    )


def is_label(target: object, kind: LabelType) -> bool:
    """Return True if a target has the type of labels."""
    if kind in {"int", "float"}:
        return isinstance(target, int | float) and not isinstance(target, bool)
    return isinstance(target, bool if kind == "bool" else str)


def _shown(target: object) -> object:
    """Describe a target: whole numbers, which may be class indexes, as they are."""
    return target if isinstance(target, int) and not isinstance(target, bool) else redacted(target)


def _readings(target: object, classes: Mapping[Label, int], outputs: int) -> str:
    """Describe a target that is not taken; one that could mean two things with both of them."""
    if isinstance(target, bool) or not isinstance(target, int | float):
        return redacted(target)
    if target != target // 1:
        return "a number"
    written = classes.get(repr(target), classes.get(str(int(target))))
    if written is None:
        return f"the number {target}" if isinstance(target, int) else "a number"
    readings = [f"the label that is written {target} (class {written})"]
    if 0 <= target < outputs:
        readings.append(f"class index {int(target)}")
    return f"the number {target}, which could mean " + " or ".join(readings)
