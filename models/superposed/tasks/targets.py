"""Targets of a batch, as a client gives them and as validated tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.errors import LabelOutOfRange, NonFiniteInput, ShapeError, redacted
from superposed.tasks.batch import Batch, check_finite
from superposed.tasks.labels import is_label, plain_target
from superposed.tasks.scaling import LARGEST_TARGET
from superposed.tasks.schema import TaskSchema

Target: TypeAlias = bool | int | float | str | Sequence[float]

_WORDS = {"bool": "true or false", "int": "a number", "float": "a number", "str": "a text", "datetime": "a text"}
_INDEX_LIMIT = 2**31


@dataclass(frozen=True)
class Targets:
    """Targets of a batch.

    Args:
        classes: (B,) int64, the class of every cross-entropy row; -1 in the rows of mse tasks.
        values: (B, store outputs) for a batch with mse rows, zero beyond a task's own outputs; else None.
        logits: (B, store outputs), what kept rows were answered when they were kept; else None.
        logit_widths: (B,) number of outputs that the tasks had then.
        weights: (B,) how much each row counts; None for 1 each.
        units: (B, store outputs) size of a network's unit in the user's, where values are scaled.
    """

    classes: Tensor
    values: Tensor | None
    logits: Tensor | None = None
    logit_widths: Tensor | None = None
    weights: Tensor | None = None
    units: Tensor | None = None


def join_targets(several: Sequence[Targets]) -> Targets:
    """Return the targets of a merged batch, rows in order; no logits."""
    return Targets(
        torch.cat([targets.classes for targets in several]),
        _joined([targets.values for targets in several], several, 0.0),
        weights=_joined([targets.weights for targets in several], several, 1.0),
        units=_joined([targets.units for targets in several], several, 1.0),
    )


def _joined(columns: Sequence[Tensor | None], several: Sequence[Targets], default: float) -> Tensor | None:
    """Return a column of all rows, with a default for those that have none; None where none has one."""
    known = next((column for column in columns if column is not None), None)
    if known is None:
        return None
    defaults = (known.new_full((len(targets.classes), *known.shape[1:]), default) for targets in several)
    return torch.cat([one if column is None else column for column, one in zip(columns, defaults, strict=True)])


def weighted(targets: Targets, weights: Sequence[float]) -> Targets:
    """Return targets with a weight for each row.

    Raise `ShapeError` where there is not one weight a row, or all of them are 0; `NonFiniteInput` where a weight is not
    a finite number from 0.
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (len(targets.classes),) or not values.any():
        expected = f"{len(targets.classes)} numbers, not all of them 0"
        received = f"{len(values)}, the largest {values.max(initial=0.0):g}"
        raise ShapeError("sample weights do not match the rows", expected=expected, received=received)
    if not np.isfinite(values).all() or values.min() < 0:
        raise NonFiniteInput("a sample weight cannot be used", expected="finite numbers from 0")
    return replace(targets, weights=torch.from_numpy(values))


def _scaled_parts(batch: Batch) -> Iterator[tuple[tuple[Tensor, slice], Tensor, Tensor]]:
    """Yield the rows and outputs of each mse task with scaled targets, and their offset and scale (outputs,)."""
    for place, part in enumerate(batch.parts):
        scaling = part.target_scaling
        if scaling is not None and len(scaling.offset):
            own = batch.places() == place, slice(len(scaling.offset))
            yield own, torch.from_numpy(scaling.offset), torch.from_numpy(scaling.scale)


def scaled_targets(batch: Batch, targets: Targets) -> Targets:
    """Return targets in the network's units, with the size of those in the user's."""
    if targets.values is None or all(part.units is None for part in batch.parts):
        return targets
    values, units = targets.values.double().clone(), torch.ones_like(targets.values, dtype=torch.float64)
    for own, offset, scale in _scaled_parts(batch):
        values[own] = (values[own] - offset) / scale
        units[own] = scale
    return replace(targets, values=values.to(batch.inputs.dtype), units=units)


def in_network_units(batch: Batch, answers: Tensor) -> Tensor:
    """Return the inverse of `in_user_units`."""
    scaled = scaled_targets(batch, Targets(torch.zeros(len(batch), dtype=torch.int64), answers)).values
    assert scaled is not None  # noqa: S101 - there were values
    return scaled


def in_user_units(batch: Batch, logits: Tensor) -> Tensor:
    """Return a network's answers (B, store outputs), those of scaled mse tasks in the user's units, float64."""
    for own, offset, scale in _scaled_parts(batch):
        logits = logits.double().clone()  # an offset may be far larger than what varies
        logits[own] = logits[own] * scale + offset
    return logits


def targets_of_arrays(batch: Batch, several: Sequence[NDArray[Any]], width: int) -> Targets:
    """Return B targets that were read before: a class index (1,) each, or the values of an mse row.

    `width` is the store's number of outputs. Raises as `check_classes`.
    """
    mse = [batch.parts[place].task.schema.loss == "mse" for place in batch.places().tolist()]
    classes = torch.tensor([-1 if of_values else int(one[0]) for one, of_values in zip(several, mse, strict=True)])
    values = torch.zeros(len(batch), width, dtype=batch.inputs.dtype) if any(mse) else None
    for row, one in enumerate(several):
        if values is not None and mse[row]:
            values[row, : len(one)] = torch.from_numpy(np.asarray(one)).to(values.dtype)
    targets = Targets(classes, values)
    check_classes(batch, targets)
    return targets


def check_classes(batch: Batch, targets: Targets) -> None:
    """Raise `LabelOutOfRange` where a row's class is none of its task's."""
    beyond = targets.classes >= batch.outputs()
    if bool(beyond.any()):
        row = int(beyond.int().argmax())
        expected = f"0 to {int(batch.outputs()[row]) - 1}"
        raise LabelOutOfRange("not a class of the row's task", expected=expected, received=int(targets.classes[row]))


def read_targets(batch: Batch, targets: Sequence[Target], width: int) -> Targets:
    """Read targets against each row's task: labels, class indexes, or numbers.

    Args:
        batch: The rows.
        targets: (B,) labels for cross-entropy rows, or class indexes where the task has no labels; a
            number, or a list of the task's outputs, for mse rows.
        width: The store's number of outputs.

    Raises:
        ShapeError: No list, not one target a row, or the wrong number of values in one.
        LabelOutOfRange: A label or class index that the row's task does not have.
        NonFiniteInput: A value that is not finite.
    """
    if isinstance(targets, str) or not hasattr(targets, "__len__"):
        raise ShapeError("targets are no list", expected=f"{len(batch)} targets", received=redacted(targets))
    if len(targets) != len(batch):
        raise ShapeError("targets and rows do not match", expected=f"{len(batch)} targets", received=len(targets))
    if (indexes := _class_indexes(batch, targets)) is not None:
        return Targets(torch.from_numpy(indexes), None)
    schemas = [part.task.schema for part in batch.parts]
    classes, values = [-1] * len(batch), None
    if any(schema.loss == "mse" for schema in schemas):
        scaled = any(part.units is not None for part in batch.parts)
        values = torch.zeros(len(batch), width, dtype=torch.float64 if scaled else batch.inputs.dtype)
    for row, (place, target) in enumerate(zip(batch.places().tolist(), targets, strict=True)):
        schema = schemas[place]
        if schema.loss == "mse" and values is not None:
            values[row, : schema.outputs] = torch.tensor(_values_of(schema, target), dtype=values.dtype)
        else:
            classes[row] = _class_of(target, schema)
    return Targets(torch.tensor(classes), values)


def _class_indexes(batch: Batch, targets: Sequence[Target]) -> NDArray[np.int64] | None:
    """Return the classes of whole numbers that are all valid, as (B,), in few operations; None for others."""
    schemas = [part.task.schema for part in batch.parts]
    if any(schema.loss != "cross_entropy" for schema in schemas):
        return None
    if not isinstance(targets, np.ndarray) and set(map(type, targets)) != {int}:
        return None
    if any(schema.labels is not None for schema in schemas):
        if len(schemas) != 1 or schemas[0].label_type not in {"int", "float"} or isinstance(targets, np.ndarray):
            return None
        found = [schemas[0].classes.get(target, -1) for target in targets]  # type: ignore[arg-type]  # they are whole numbers
        return None if -1 in found else np.asarray(found, dtype=np.int64)
    try:
        numbers = np.asarray(targets)
    except OverflowError:
        return None
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        return None
    good = (numbers >= 0) & (numbers < batch.outputs().numpy())
    return numbers.astype(np.int64) if good.all() else None


def _class_of(target: object, schema: TaskSchema) -> int:
    """Return the class of a label, or of a class index without labels; raise `LabelOutOfRange` where it is none."""
    target, kind = plain_target(target), schema.label_type
    if kind is None:
        return _index(target, schema)
    if is_label(target, kind):
        value: Any = float(target) if kind == "float" else target  # type: ignore[arg-type]  # it is a number
        if (found := schema.classes.get(value)) is not None:
            return int(found)
        expected = f"one of its {schema.outputs} labels (in GET /v1/tasks); add_labels or grow_labels adds one"
        raise LabelOutOfRange(f"not a label of task {schema.key}", expected=expected, received=_shown(target))
    problem = f"a target of another type than the labels of task {schema.key}"
    raise LabelOutOfRange(problem, expected=f"a label, {_WORDS[kind]}", received=_readings(target, schema))


def _index(target: object, schema: TaskSchema) -> int:
    number = target if isinstance(target, int | float) and not isinstance(target, bool) else None
    if number is not None and 0 <= number < min(schema.outputs, _INDEX_LIMIT) and number == int(number):
        return int(number)
    problem = f"not a class of task {schema.key}, which was registered without labels"
    expected = f"a class index, 0 to {schema.outputs - 1}; values need a task with loss mse"
    raise LabelOutOfRange(problem, expected=expected, received=_shown(target))


def _shown(target: object) -> object:
    """Describe a target: whole numbers, which may be class indexes, as they are."""
    return target if isinstance(target, int) and not isinstance(target, bool) else redacted(target)


def _readings(target: object, schema: TaskSchema) -> str:
    """Describe a target that is not taken; one that could mean two things with both of them."""
    if isinstance(target, bool) or not isinstance(target, int | float):
        return redacted(target)
    if target != target // 1:
        return "a number"
    written = schema.classes.get(repr(target), schema.classes.get(str(int(target))))
    if written is None:
        return f"the number {target}" if isinstance(target, int) else "a number"
    readings = [f"the label that is written {target} (class {written})"]
    if 0 <= target < schema.outputs:
        readings.append(f"class index {int(target)}")
    return f"the number {target}, which could mean " + " or ".join(readings)


def _values_of(schema: TaskSchema, target: Target) -> list[float]:
    try:
        numbers = np.atleast_1d(np.asarray(target))
    except ValueError:
        numbers = np.asarray([], dtype=object)
    if numbers.dtype.kind not in "fiu" or numbers.shape != (schema.outputs,):
        expected = f"{schema.outputs} number{'s' if schema.outputs > 1 else ''}"
        raise ShapeError(f"not a target of mse task {schema.key}", expected=expected, received=redacted(target))
    check_finite(numbers[None], "targets")
    if schema.scaling == "running" and np.abs(numbers.astype(np.float64)).max() > LARGEST_TARGET:
        problem = f"a target of task {schema.key} is too large"
        raise NonFiniteInput(problem, expected=f"{LARGEST_TARGET:g} at most", received=redacted(target))
    return [float(number) for number in numbers]
