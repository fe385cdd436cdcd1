"""From what a caller gives (contexts, rows, targets) to the tensors of one mixed batch, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.contexts import Context
from superposed.errors import EmptyBatch, LabelOutOfRange, NonFiniteInput, ShapeError
from superposed.tasks import TaskState

__all__ = ["Batch", "ResolvedContext", "Target", "Targets", "merge", "one_context", "per_row", "read_targets"]

Target: TypeAlias = str | int | float | Sequence[float]


@dataclass(frozen=True)
class ResolvedContext:
    """A context expression whose keys are known: its canonical form and the task that gives it a face.

    Args:
        context: The canonical form.
        task: The task of its heaviest part (ties: the first), which gives inputs, offset, scale, labels.
    """

    context: Context
    task: TaskState

    @property
    def is_bare(self) -> bool:
        """Whether it is just one task, not a composition."""
        return self.context.shares == ((self.task.id, 1.0, None),)


@dataclass(frozen=True)
class Batch:
    """Rows of one or of many contexts, ready for the network.

    Args:
        parts: The K distinct contexts.
        index: (B,) int64, each row's place in `parts`; None where there is one context.
        inputs: (B, store inputs), scaled and padded, the store's dtype, on the CPU.
    """

    parts: tuple[ResolvedContext, ...]
    index: Tensor | None
    inputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def places(self) -> Tensor:
        """(B,) int64: each row's place in `parts`, also where there is only one."""
        return torch.zeros(len(self), dtype=torch.int64) if self.index is None else self.index

    def outputs(self) -> Tensor:
        """(B,) int64: how many outputs each row's task has."""
        return torch.tensor([part.task.schema.outputs for part in self.parts])[self.places()]


@dataclass(frozen=True)
class Targets:
    """What a batch should have answered.

    Args:
        classes: (B,) int64, the class of every cross-entropy row; -1 in the rows of mse tasks.
        values: (B, store outputs) for a batch with mse rows, zero beyond a task's own outputs; else None.
    """

    classes: Tensor
    values: Tensor | None


_KINDS = {
    "U": "text",
    "S": "text",
    "b": "true and false",
    "O": "something else than numbers",
    "c": "complex numbers",
}


def _rows(values: object) -> NDArray[Any]:
    """A float or integer array (B, n) from nested lists, an array or a tensor."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        rows = np.asarray(values)
    except (ValueError, OverflowError):
        raise ShapeError("inputs are not rows of equal length", expected="shape (rows, features)") from None
    if rows.size == 0 and rows.ndim in {1, 2}:
        raise EmptyBatch("a batch without rows or features", expected="at least one row", received=rows.shape)
    if rows.ndim != 2:
        raise ShapeError(
            "inputs are not a list of rows", expected="shape (rows, features)", received=rows.shape
        )
    if rows.dtype.kind not in "fiu":
        received = _KINDS.get(rows.dtype.kind, str(rows.dtype))
        raise ShapeError("inputs are not numbers", expected="numbers", received=received)
    return rows


def _check_finite(rows: NDArray[Any], what: str) -> None:
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise NonFiniteInput(
            f"{what} hold a number that is not finite",
            expected="finite numbers",
            received=f"{rows[row, column]} at row {row}, place {column}",
        )


def _face(task: TaskState, rows: NDArray[Any], width: int, dtype: torch.dtype) -> Tensor:
    """Checks rows against a task, applies its offset and scale, and pads them to the store's width."""
    schema = task.schema
    if rows.shape[1] != schema.inputs:
        raise ShapeError(
            f"rows of the wrong width for task {schema.key}",
            expected=f"{schema.inputs} features",
            received=rows.shape[1],
        )
    _check_finite(rows, "inputs")
    values = rows
    if schema.offset is not None or schema.scale is not None:
        values = rows.astype(np.float64)
        if schema.offset is not None:
            values -= np.asarray(schema.offset)
        if schema.scale is not None:
            values /= np.asarray(schema.scale)
    scaled = torch.zeros(len(rows), width, dtype=dtype)
    with np.errstate(over="ignore"):  # what is then too large is found below
        scaled.numpy()[:, : schema.inputs] = values
    if not np.isfinite(scaled.numpy()).all():
        raise NonFiniteInput(
            "inputs are too large once the task's offset and scale are applied",
            expected=f"numbers that fit {dtype}",
        )
    return scaled


def one_context(part: ResolvedContext, inputs: object, width: int, dtype: torch.dtype) -> Batch:
    """A batch whose rows all belong to one context.

    Args:
        part: The context.
        inputs: (B, task inputs): nested lists, array or tensor.
        width: The store's number of inputs.
        dtype: The store's dtype.

    Raises:
        InputError: No rows, rows of the wrong shape, or a number that is not finite.
    """
    return Batch((part,), None, _face(part.task, _rows(inputs), width, dtype))


def per_row(parts: Sequence[ResolvedContext], inputs: Sequence[Any], width: int, dtype: torch.dtype) -> Batch:
    """A batch whose rows have a context each, and may differ in width.

    Args:
        parts: (B,) contexts.
        inputs: B rows, each of its own task's width.
        width: The store's number of inputs.
        dtype: The store's dtype.

    Raises:
        InputError: As `one_context`; also where contexts and rows are not equally many.
    """
    if not isinstance(inputs, list | tuple | np.ndarray | Tensor):
        raise ShapeError(
            "inputs are not a list of rows", expected=f"{len(parts)} rows", received=type(inputs).__name__
        )
    if len(parts) != len(inputs):
        raise ShapeError(
            "contexts and rows do not match", expected=f"{len(parts)} rows", received=len(inputs)
        )
    if not len(inputs):
        raise EmptyBatch("a batch without rows", expected="at least one row", received=0)
    distinct: dict[tuple[str, str], int] = {}
    faces: list[ResolvedContext] = []
    members: list[list[int]] = []
    for row, part in enumerate(parts):
        # Two mixtures of the same parts may differ in which of them gives the row its face.
        place = distinct.setdefault((part.context.text, part.task.schema.key), len(faces))
        if place == len(faces):
            faces.append(part)
            members.append([])
        members[place].append(row)
    result = torch.empty(len(inputs), width, dtype=dtype)
    index = torch.empty(len(inputs), dtype=torch.int64)
    for place, (face, rows) in enumerate(zip(faces, members, strict=True)):
        result[rows] = _face(face.task, _rows([inputs[row] for row in rows]), width, dtype)
        index[rows] = place
    return Batch(tuple(faces), index if len(faces) > 1 else None, result)


def merge(batches: Sequence[Batch]) -> Batch:
    """One mixed batch from several, rows in order; equal contexts share a place."""
    if len(batches) == 1:
        return batches[0]
    distinct: dict[str, int] = {}
    parts: list[ResolvedContext] = []
    index = np.empty(sum(len(batch) for batch in batches), dtype=np.int64)
    start = 0
    for batch in batches:
        mapping = []
        for part in batch.parts:
            place = distinct.setdefault(part.context.text, len(parts))
            if place == len(parts):
                parts.append(part)
            mapping.append(place)
        own = index[start : start + len(batch)]
        own[:] = mapping[0] if batch.index is None else np.asarray(mapping)[batch.index.numpy()]
        start += len(batch)
    return Batch(
        tuple(parts),
        torch.from_numpy(index) if len(parts) > 1 else None,
        torch.cat([batch.inputs for batch in batches]),
    )


def read_targets(batch: Batch, targets: Sequence[Target], width: int) -> Targets:
    """Reads targets against each row's task: labels, class indexes, or numbers.

    Args:
        batch: The rows.
        targets: (B,) labels (str) or class indexes (int) for cross-entropy rows; a number, or a list of
            the task's outputs, for mse rows.
        width: The store's number of outputs.

    Raises:
        ShapeError: Not one target a row, or the wrong number of values in one.
        LabelOutOfRange: A label or class index that the row's task does not have.
        NonFiniteInput: A value that is not finite.
    """
    if len(targets) != len(batch):
        raise ShapeError(
            "targets and rows do not match", expected=f"{len(batch)} targets", received=len(targets)
        )
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
            expected=f"one of {list(schema.labels)[:20]}" if schema.labels else f"0 to {schema.outputs - 1}",
            received=repr(target)[:100],
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
            received=repr(target)[:100],
        )
    _check_finite(numbers[None], "targets")
    return [float(number) for number in numbers]
