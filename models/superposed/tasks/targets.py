"""Targets of a batch, as a client gives them and as validated tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.errors import LabelOutOfRange, ShapeError, redacted
from superposed.tasks.batch import Batch, check_finite
from superposed.tasks.labels import class_of
from superposed.tasks.schema import TaskSchema

__all__ = ["Target", "Targets", "check_classes", "join_targets", "read_targets", "targets_of_arrays"]

Target: TypeAlias = bool | int | float | str | Sequence[float]


@dataclass(frozen=True)
class Targets:
    """Targets of a batch.

    Args:
        classes: (B,) int64, the class of every cross-entropy row; -1 in the rows of mse tasks.
        values: (B, store outputs) for a batch with mse rows, zero beyond a task's own outputs; else None.
        logits: (B, store outputs), what kept rows were answered when they were kept; else None.
    """

    classes: Tensor
    values: Tensor | None
    logits: Tensor | None = None


def join_targets(several: Sequence[Targets]) -> Targets:
    """Return the targets of a merged batch, rows in order; no logits."""
    values = None
    widths = [targets.values for targets in several if targets.values is not None]
    if widths:
        values = torch.cat(
            [
                widths[0].new_zeros(len(targets.classes), widths[0].shape[1])
                if targets.values is None
                else targets.values
                for targets in several
            ]
        )
    return Targets(torch.cat([targets.classes for targets in several]), values)


def targets_of_arrays(batch: Batch, several: Sequence[NDArray[Any]], width: int) -> Targets:
    """Return targets that were read before: a class index (1,), or the values of an mse row.

    Args:
        batch: The rows.
        several: (B,) arrays.
        width: The store's number of outputs.

    Raises:
        LabelOutOfRange: A class that the row's task does not have.
    """
    mse = [batch.parts[place].task.schema.loss == "mse" for place in batch.places().tolist()]
    classes = torch.tensor(
        [-1 if of_values else int(one[0]) for one, of_values in zip(several, mse, strict=True)]
    )
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
        raise LabelOutOfRange(
            "not a class of the row's task",
            expected=f"0 to {int(batch.outputs()[row]) - 1}",
            received=int(targets.classes[row]),
        )


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
        raise ShapeError(
            "targets and rows do not match", expected=f"{len(batch)} targets", received=len(targets)
        )
    if (indexes := _class_indexes(batch, targets)) is not None:
        return Targets(torch.from_numpy(indexes), None)
    classes = [-1] * len(batch)
    values: list[tuple[int, list[float]]] = []
    schemas = [(part.task.schema, part.task.schema.label_type) for part in batch.parts]
    for row, (place, target) in enumerate(zip(batch.places().tolist(), targets, strict=True)):
        schema, kind = schemas[place]
        if schema.loss == "cross_entropy":
            classes[row] = class_of(target, schema.classes, kind, schema.outputs, schema.key)
        else:
            values.append((row, _values_of(schema, target)))
    if not values:
        return Targets(torch.tensor(classes), None)
    dense = torch.zeros(len(batch), width, dtype=batch.inputs.dtype)
    for row, numbers in values:
        dense[row, : len(numbers)] = torch.tensor(numbers, dtype=dense.dtype)
    return Targets(torch.tensor(classes), dense)


def _class_indexes(batch: Batch, targets: Sequence[Target]) -> NDArray[np.int64] | None:
    """Return the classes of whole numbers that are all valid, as (B,), in few operations; None for others."""
    schemas = [part.task.schema for part in batch.parts]
    if any(schema.loss != "cross_entropy" for schema in schemas):
        return None
    if not isinstance(targets, np.ndarray) and set(map(type, targets)) != {int}:
        return None
    if any(schema.labels is not None for schema in schemas):
        return _label_indexes(schemas, targets)
    try:
        numbers = np.asarray(targets)
    except OverflowError:
        return None
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        return None
    good = (numbers >= 0) & (numbers < batch.outputs().numpy())
    return numbers.astype(np.int64) if good.all() else None


def _label_indexes(schemas: Sequence[TaskSchema], targets: Sequence[Target]) -> NDArray[np.int64] | None:
    """Return the classes of labels that are all whole numbers of one task; None for others."""
    if len(schemas) != 1 or schemas[0].label_type not in {"int", "float"} or isinstance(targets, np.ndarray):
        return None
    found = [schemas[0].classes.get(target, -1) for target in targets]  # type: ignore[arg-type]  # they are whole numbers
    return None if -1 in found else np.asarray(found, dtype=np.int64)


def _values_of(schema: TaskSchema, target: Target) -> list[float]:
    try:
        numbers = np.atleast_1d(np.asarray(target))
    except ValueError:
        numbers = np.asarray([], dtype=object)
    if numbers.dtype.kind not in "fiu" or numbers.shape != (schema.outputs,):
        raise ShapeError(
            f"not a target of mse task {schema.key}",
            expected=f"{schema.outputs} number{'s' if schema.outputs > 1 else ''}",
            received=redacted(target),
        )
    check_finite(numbers[None], "targets")
    return [float(number) for number in numbers]
