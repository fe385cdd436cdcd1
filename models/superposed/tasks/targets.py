"""Targets of a batch, as a client gives them and as validated tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.errors import LabelOutOfRange, ShapeError, redacted
from superposed.tasks.batch import Batch, check_finite
from superposed.tasks.registry import TaskState

__all__ = ["Target", "Targets", "join_targets", "read_targets"]

Target: TypeAlias = str | int | float | Sequence[float]


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


def read_targets(batch: Batch, targets: Sequence[Target], width: int) -> Targets:
    """Read targets against each row's task: labels, class indexes, or numbers.

    Args:
        batch: The rows.
        targets: (B,) labels (str) or class indexes (int) for cross-entropy rows; a number, or a list of
            the task's outputs, for mse rows.
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
    lookup = [_class_numbers(part.task) for part in batch.parts]
    for row, (place, target) in enumerate(zip(batch.places().tolist(), targets, strict=True)):
        task = batch.parts[place].task
        if task.schema.loss == "cross_entropy":
            classes[row] = _class_of(task, lookup[place], target)
        else:
            values.append((row, _values_of(task, target)))
    if not values:
        return Targets(torch.tensor(classes), None)
    dense = torch.zeros(len(batch), width, dtype=batch.inputs.dtype)
    for row, numbers in values:
        dense[row, : len(numbers)] = torch.tensor(numbers, dtype=dense.dtype)
    return Targets(torch.tensor(classes), dense)


def _class_indexes(batch: Batch, targets: Sequence[Target]) -> NDArray[np.int64] | None:
    """Return targets that are all valid class indexes as (B,), in one operation; None for others."""
    if any(part.task.schema.loss != "cross_entropy" for part in batch.parts):
        return None
    if not isinstance(targets, np.ndarray) and set(map(type, targets)) != {int}:
        return None
    try:
        numbers = np.asarray(targets)
    except OverflowError:
        return None
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        return None
    good = (numbers >= 0) & (numbers < batch.outputs().numpy())
    return numbers.astype(np.int64) if good.all() else None


def _class_numbers(task: TaskState) -> dict[str, int]:
    return {label: place for place, label in enumerate(task.schema.labels or ())}


def _class_of(task: TaskState, numbers: dict[str, int], target: Target) -> int:
    schema = task.schema
    if isinstance(target, str):
        found = numbers.get(target, -1)
    elif isinstance(target, int | np.integer) and not isinstance(target, bool):
        found = int(target)
    else:
        found = -1
    if not 0 <= found < schema.outputs:
        raise LabelOutOfRange(
            f"not a class of task {schema.key}",
            expected=f"{'one of its labels, or ' if schema.labels else ''}0 to {schema.outputs - 1}",
            received=found if isinstance(target, int) else redacted(target),
        )
    return found


def _values_of(task: TaskState, target: Target) -> list[float]:
    schema = task.schema
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
