"""From contexts and rows, as a caller gives them, to the tensors of one mixed batch, checked."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.contexts import Context
from superposed.encoders.records import LARGEST, FeatureTable, check_records
from superposed.errors import EmptyBatch, NonFiniteInput, ShapeError, redacted
from superposed.tasks.registry import TaskState
from superposed.tasks.scaling import CLIP, Scaling, scaled_each


@dataclass(frozen=True, slots=True)
class ResolvedContext:
    """A context expression whose keys are known: its canonical form and the task that gives it a face.

    Args:
        context: The canonical form.
        task: The task of its heaviest part (ties: the first), which gives inputs, offset, scale, labels.
        keep_rows: Whether all its tasks allow their rows to be kept.
        scaler: The task whose running statistics scale the rows, and whose features records have; None where
            the task's schema gives the scaling.
        units: The task whose running statistics scale the targets; None where they are not scaled.
    """

    context: Context
    task: TaskState
    keep_rows: bool = True
    scaler: TaskState | None = None
    units: TaskState | None = None

    @property
    def text(self) -> str:
        """An expression of the context, which resolves to it for as long as its tasks are registered."""
        if self.task.schema.composition is not None:
            return self.task.schema.key
        # Of equal weights the first gives the rows their face.
        shares = sorted(self.context.shares, key=lambda share: share[0].key != self.task.schema.key)
        powers = [task.key if exponent is None else f"{task.key}^{exponent!r}" for task, _, exponent in shares]
        parts = [f"{part}:{weight!r}" for part, (_, weight, _) in zip(powers, shares, strict=True)]
        return f"mix({','.join(parts)})" if len(parts) > 1 else powers[0]

    @property
    def keys(self) -> set[str]:
        """The keys of all tasks in it, and of the one that preprocesses its rows."""
        return {task.key for task, _, _ in self.context.shares} | {self.task.schema.key}

    @property
    def scaling(self) -> Scaling | None:
        """The scaling of rows now; None for rows as they are."""
        if self.scaler is None:
            return self.task.schema.fixed_scaling
        return self.scaler.statistics.scaling(CLIP)

    @property
    def target_scaling(self) -> Scaling | None:
        """The scaling of targets now; None for targets as they are."""
        return None if self.units is None else self.units.target_statistics.scaling(None)

    @property
    def features(self) -> FeatureTable:
        """The features that its records have."""
        return (self.scaler or self.task).features

    def encode(self, rows: Any) -> NDArray[np.float64]:
        """Return the task's own rows (B, inputs) before scaling; raise `InputError` for records that do not fit."""
        schema = self.task.schema
        if schema.kind != "records":
            values: NDArray[np.float64] = np.asarray(rows, dtype=np.float64)
            return values
        return self.features.encode(rows, schema.inputs, ignore_extra=schema.extra_features == "ignore")

    @property
    def is_single(self) -> bool:
        """True if one task's key addresses it, not a composition."""
        return self.task.schema.composition is not None or self.context.shares == ((self.task.id, 1.0, None),)


@dataclass(frozen=True)
class Batch:
    """Rows of one or of many contexts, ready for the network.

    Args:
        parts: The K distinct contexts.
        index: (B,) int64, each row's place in `parts`; None where there is one context.
        inputs: (B, store inputs), scaled and padded, the store's dtype, on the CPU.
        raw: Each part's own rows before encoding and scaling, where one of them is scaled.
        encoded: (B, store inputs) float64, rows before scaling, once an update has learned it.
        hashes: (B,) uint32, of the rows as they came, once an update has learned their scaling.
    """

    parts: tuple[ResolvedContext, ...]
    index: Tensor | None
    inputs: Tensor
    raw: tuple[Any, ...] | None = None
    encoded: Tensor | None = None
    hashes: NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def places(self) -> Tensor:
        """Return (B,) int64: each row's place in `parts`, also where there is only one."""
        return torch.zeros(len(self), dtype=torch.int64) if self.index is None else self.index

    def members(self) -> Iterator[tuple[ResolvedContext, slice | NDArray[np.bool_]]]:
        """Yield each of `parts` with the index of its rows: a mask (B,), or a slice of all where there is one part."""
        places = self.places().numpy()
        for place, part in enumerate(self.parts):
            yield part, slice(None) if len(self.parts) == 1 else places == place

    def outputs(self) -> Tensor:
        """Return (B,) int64: the number of outputs of each row's task."""
        outputs = torch.tensor([part.task.schema.outputs for part in self.parts])  # (K,)
        return outputs.expand(len(self)) if self.index is None else outputs[self.index]


_KINDS = {"U": "text", "S": "text", "O": "something else than numbers", "c": "complex numbers"}


def read_rows(values: object) -> NDArray[Any]:
    """Return a float or integer array (B, n) from lists, an array or a tensor; raise `InputError` for other values."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        rows = np.asarray(values)
    except (ValueError, OverflowError):
        raise ShapeError("inputs are not rows of equal length", expected="shape (rows, features)") from None
    if rows.size == 0 and rows.ndim in {1, 2}:
        raise EmptyBatch("a batch without rows or features", expected="at least one row", received=rows.shape)
    if rows.ndim != 2:
        raise ShapeError("inputs are not a list of rows", expected="shape (rows, features)", received=rows.shape)
    if rows.dtype.kind == "b":
        return rows.astype(np.uint8)
    if rows.dtype.kind not in "fiu":
        received = _KINDS.get(rows.dtype.kind, str(rows.dtype))
        raise ShapeError("inputs are not numbers", expected="numbers", received=received)
    return rows


def check_finite(rows: NDArray[Any], what: str) -> None:
    """Raise `NonFiniteInput` where one of (B, n) numbers is not finite, and name it."""
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        received = f"{rows[row, column]} at row {row}, place {column}"
        raise NonFiniteInput(f"{what} hold a number that is not finite", expected="finite numbers", received=received)


def _checked(part: ResolvedContext, inputs: object) -> Any:
    """Return rows (B, inputs) or records that fit a task's schema, whatever its statistics are."""
    schema = part.task.schema
    if schema.kind == "records":
        if not isinstance(inputs, list | tuple):
            problem = f"task {schema.key} takes records of named values, not rows of numbers"
            raise ShapeError(problem, expected="records: a list of objects", received=redacted(inputs))
        check_records(inputs, part.features)
        return inputs
    if isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], Mapping):
        taken = "rows of numbers" if schema.kind == "rows" else f"{schema.kind}, or rows of numbers"
        expected = f"{schema.inputs} numbers a row (frame.to_numpy()), or a task of kind records"
        raise ShapeError(f"task {schema.key} takes {taken}, not records", expected=expected, received="records")
    rows = read_rows(inputs)
    if rows.shape[1] != schema.inputs:
        expected = f"{schema.inputs} features{'' if schema.kind == 'rows' else f', or {schema.kind}'}"
        raise ShapeError(f"rows of the wrong width for task {schema.key}", expected=expected, received=rows.shape[1])
    check_finite(rows, "inputs")
    if schema.scaling == "running" and rows.dtype == np.float64 and np.abs(rows).max() > LARGEST:
        raise NonFiniteInput("inputs hold a number that is too large", expected=f"{LARGEST:g} at most")
    return rows


def scaled_rows(part: ResolvedContext, rows: Any, width: int, dtype: torch.dtype) -> Tensor:
    """Return checked rows of a context encoded, scaled, and padded to the store's width (B, width).

    Raise `NonFiniteInput` where they do not fit the dtype once they are scaled; `InputError` where a record does not
    fit the task's features.
    """
    values, scaling = rows, part.scaling
    if part.task.schema.kind == "records" or scaling is not None:
        values = part.encode(rows)
        values = values if scaling is None else scaling.apply(values)
    scaled = torch.zeros(len(values), width, dtype=dtype)
    with np.errstate(over="ignore"):  # what is then too large is found below
        scaled.numpy()[:, : values.shape[1]] = values
    if not np.isfinite(scaled.numpy()).all():
        problem = "inputs are too large once the task's offset and scale are applied"
        raise NonFiniteInput(problem, expected=f"numbers that fit {dtype}")
    return scaled


def one_context(
    part: ResolvedContext, inputs: object, width: int, dtype: torch.dtype, *, learning: bool = False
) -> Batch:
    """Return a batch whose rows all belong to one context.

    `inputs` are (B, task inputs), as nested lists, array or tensor, or B records; `width` and `dtype` the store's
    number of inputs and dtype. Rows whose scaling an update learns too (`learning`) are scaled when it is applied.
    Raise `InputError` for no rows, rows of the wrong shape, or a number that is not finite.
    """
    rows = _checked(part, inputs)
    learned = learning and part.scaler is not None
    scaled = torch.zeros(len(rows), width, dtype=dtype) if learned else scaled_rows(part, rows, width, dtype)
    return Batch((part,), None, scaled, raw=None if part.scaling is None else (rows,))


def one_context_each(
    parts: Sequence[ResolvedContext], inputs: Sequence[object], width: int, dtype: torch.dtype
) -> Batch | None:
    """Join the rows of several requests, each of one context, in a few operations on all of them.

    Numpy and torch let other threads go first at each operation on a row: where others are busy, to prepare
    each caller's rows by themselves takes longer than to answer them.

    Whole numbers beyond 2^53 beside another caller's fractions are rounded twice. `parts` and `inputs` are each
    caller's context and rows; the arguments are otherwise those of `one_context`.

    Returns:
        The rows in order; None where some need `one_context`: they are alone, no numbers, not finite, or of
        another form or width than the others'.
    """
    if len(parts) < 2:
        return None
    schemas = [part.task.schema for part in parts]
    features = schemas[0].inputs
    if any(one.inputs != features or one.kind == "records" for one in schemas):
        return None
    values = _join_arrays(inputs, features) if isinstance(inputs[0], np.ndarray) else join_lists(inputs, features)
    if values is None:
        return None
    lengths = [len(own) for own in inputs]  # type: ignore[arg-type]  # they have rows: those were joined
    joined = torch.zeros(len(values), width, dtype=dtype)
    rows = joined.numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is found below
        index = np.repeat(np.arange(len(parts)), lengths)
        rows[:, :features] = scaled_each([part.scaling for part in parts], index, values)
    if not (np.isfinite(rows).all() and np.isfinite(values).all()):
        return None
    distinct, places = _distinct(parts)
    return Batch(distinct, torch.from_numpy(places[index]) if len(distinct) > 1 else None, joined)


def _distinct(parts: Sequence[ResolvedContext]) -> tuple[tuple[ResolvedContext, ...], NDArray[np.int64]]:
    """Return the distinct contexts, and each part's place among them."""
    # Two mixtures of the same parts may differ in which of them gives the row its face.
    names = [(part.context.text, part.task.schema.key) for part in parts]
    first = dict(zip(reversed(names), reversed(parts), strict=True))  # of equal ones the first
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return tuple(first[name] for name in known), np.asarray([known[name] for name in names], dtype=np.int64)


def _join_arrays(several: Sequence[Any], features: int) -> NDArray[Any] | None:
    """Join several arrays to (ΣB, features), where all are alike."""
    kind = several[0].dtype
    for one in several:
        alike = isinstance(one, np.ndarray) and one.dtype == kind and one.shape[1:] == (features,)
        if not (alike and len(one) and one.flags.c_contiguous and kind.kind in "fiu"):
            return None
    return np.frombuffer(b"".join([one.data for one in several]), kind).reshape(-1, features)


def join_lists(several: Sequence[Any], features: int) -> NDArray[Any] | None:
    """Join several lists of rows to (ΣB, features), where all of them are numbers."""
    if not all(isinstance(one, list) and one for one in several):
        return None
    rows = list(chain.from_iterable(several))
    if not all(isinstance(row, list) and len(row) == features for row in rows):
        return None
    try:  # a third of the time that numpy takes, which looks at each number twice
        values = struct.pack(f"{len(rows) * features}d", *chain.from_iterable(rows))
    except (struct.error, OverflowError):
        return None
    return np.frombuffer(values).reshape(-1, features)


def per_row(
    parts: Sequence[ResolvedContext], inputs: Sequence[Any], width: int, dtype: torch.dtype, *, learning: bool = False
) -> Batch:
    """Return a batch of B contexts and B rows, each of its own task's width, or records.

    The other arguments are those of `one_context`. Raise `InputError` as `one_context`, and where contexts and rows are
    not equally many.
    """
    if not isinstance(inputs, list | tuple | np.ndarray | Tensor):
        raise ShapeError("inputs are not a list of rows", expected=f"{len(parts)} rows", received=type(inputs).__name__)
    if len(parts) != len(inputs):
        raise ShapeError("contexts and rows do not match", expected=f"{len(parts)} rows", received=len(inputs))
    if not len(inputs):
        raise EmptyBatch("a batch without rows", expected="at least one row", received=0)
    distinct, places = _distinct(parts)
    members = np.split(places.argsort(kind="stable"), np.bincount(places).cumsum()[:-1])  # rows of each context
    result = torch.zeros(len(inputs), width, dtype=dtype)
    raw = []
    for part, rows in zip(distinct, members, strict=True):
        raw.append(_checked(part, [inputs[row] for row in rows.tolist()]))
        if not learning or part.scaler is None:
            result[rows] = scaled_rows(part, raw[-1], width, dtype)
    index = torch.from_numpy(places) if len(distinct) > 1 else None
    return Batch(distinct, index, result, raw=tuple(raw) if any(part.scaling for part in distinct) else None)


def merge(batches: Sequence[Batch]) -> Batch:
    """Return one mixed batch from several, rows in order; equal contexts share a place."""
    if len(batches) == 1:
        return batches[0]
    parts, places = _distinct([part for batch in batches for part in batch.parts])
    first = np.cumsum([0] + [len(batch.parts) for batch in batches])  # of each batch's parts, among all
    among_all = [start + batch.places().numpy() for start, batch in zip(first[:-1], batches, strict=True)]
    index = torch.from_numpy(places[np.concatenate(among_all)]) if len(parts) > 1 else None
    return Batch(parts, index, torch.cat([batch.inputs for batch in batches]))


def fill_padding(numbers: Tensor, widths: Tensor, value: float) -> Tensor:
    """Return numbers (B, N) with a value where they lie beyond their row's width; widths are (B,)."""
    if widths.device.type == "cpu" and int(widths.min()) >= numbers.shape[1]:
        return numbers
    return numbers.masked_fill(torch.arange(numbers.shape[1], device=numbers.device) >= widths[:, None], value)
