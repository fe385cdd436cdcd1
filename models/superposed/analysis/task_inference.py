"""Task inference: find the context that rows belong to, among many, from the rows alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.encoders.records import check_records
from superposed.errors import InputError, NonFiniteInput, ShapeError, SuperposedError, check_most
from superposed.store.losses import row_losses
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch, ResolvedContext, merge, read_rows
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Target, read_targets, scaled_targets

# Rows of one batch of candidate evaluations.
_ROWS_AT_ONCE = 4096
_MOST_SHOWN = 100
# Exponents: a grid over the whole range, then finer ones around the best.
_GRID, _FINER, _ROUNDS = 65, 9, 4
# Largest number of powers that are tried for each row.
EXPONENT_EVALUATIONS = _GRID + (_ROUNDS - 1) * _FINER


@dataclass(frozen=True)
class Score:
    """Likelihood that rows belong to a context, among the candidates; probabilities sum to 1.

    They are the softmax of `evidence`: the sum over rows of the energy, or of minus the loss.
    """

    context: str
    probability: float
    evidence: float


@dataclass(frozen=True)
class Located:
    """The context that fits `rows` rows best, as text, and the likeliest ones: best first, at most 100."""

    best: str
    scores: tuple[Score, ...]
    rows: int


def locate(
    store: WeightStore,
    inputs: object,
    targets: Sequence[Target] | None = None,
    *,
    candidates: Sequence[str],
    most: int = 2**20,
) -> Located:
    """Try rows under every candidate context, all of one stream, as mixed batches.

    Without targets a context fits by its *energy*, log Σ exp of its logits, less their mean and the log of the number
    of outputs: a network answers rows that it was taught more decidedly than rows that it never saw. With targets it
    fits by its loss, less that log where they are classes. Evidence adds up over rows.

    Args:
        store: Answers; nothing is learned.
        inputs: (B, features), rows of one unknown context.
        targets: (B,) what they should have answered, if that is known.
        candidates: Contexts as text. Passed over are those whose task has another number of features or
            cannot have such targets; and mse tasks, unless there are targets that no other can have: the
            two kinds of losses do not compare.
        most: How many answers, rows times candidates, may be computed.

    Raises:
        ShapeError: They are no rows, or no candidate takes rows of this width, or none is of cross-entropy
            where there are no targets.
        CapacityExceeded: Too many rows and candidates.
        ContextError, InputError: Contexts, rows or targets cannot be used.

    Source: Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020, equation 4;
    neither mean nor number of outputs is taken off there.
    """
    rows = _read_inputs(inputs)
    names = _of_one_loss(store, _fitting(store, rows, candidates, most), len(rows), targets)
    return _ranked(names, _evidence(store, rows, targets, names), len(rows))


def locate_exponent(
    store: WeightStore,
    inputs: object,
    targets: Sequence[Target] | None = None,
    *,
    key: str,
    exponents: tuple[float, float],
    most: int = 2**20,
) -> Located:
    """Find the real power of the context `key` that rows fit best, among exponents from the first to the second.

    Other arguments as `locate`; `most` bounds rows times exponents. Raise `CompositionNotSupported` where the family
    has no powers; `SuperposedError` as `locate`.
    """
    low, high = exponents
    rows = _read_inputs(inputs)
    check_evaluations(len(rows) * EXPONENT_EVALUATIONS, most)
    _of_one_loss(store, [key], len(rows), targets)  # refuses what says nothing about an exponent
    tried: dict[float, float] = {}
    grid = np.linspace(low, high, _GRID)
    for _ in range(_ROUNDS):
        fresh = [float(exponent) for exponent in grid if float(exponent) not in tried]
        names = [f"{key}^{exponent!r}" for exponent in fresh]
        tried |= dict(zip(fresh, _evidence(store, rows, targets, names).tolist(), strict=True))
        best = max(tried, key=lambda exponent: tried[exponent])
        reach = float(grid[1] - grid[0])
        grid = np.linspace(max(low, best - reach), min(high, best + reach), _FINER)
    names = [f"{key}^{exponent!r}" for exponent in tried]
    return _ranked(names, np.asarray(list(tried.values())), len(rows))


def check_evaluations(tries: int, most: int) -> None:
    """Raise `CapacityExceeded` where a search computes more answers, rows times contexts, than it may."""
    check_most("too many rows and candidates to try them all", tries, most, " rows times candidates")


def _read_inputs(inputs: Any) -> NDArray[Any] | list[Any]:
    """Return rows of numbers as an array, records as they are; raises as `read_rows` and `check_records`."""
    if not (isinstance(inputs, list) and inputs and isinstance(inputs[0], Mapping)):
        return read_rows(inputs)
    check_records(inputs)
    return inputs


def _fitting(store: WeightStore, rows: NDArray[Any] | list[Any], candidates: Sequence[str], most: int) -> list[str]:
    """Return the candidates that take such rows; counted before they are resolved, which takes its time."""
    tasks = store.tasks
    width = rows.shape[1] if isinstance(rows, np.ndarray) else None  # records have none

    def takes(schema: TaskSchema) -> bool:
        return width is None if schema.kind == "records" else width == schema.inputs

    names = [name for name in dict.fromkeys(candidates) if name not in tasks or takes(tasks.get(name).schema)]
    check_evaluations(len(rows) * len(names), most)
    parts = {name: store.resolve(name) for name in names}
    names = [name for name, part in parts.items() if takes(part.task.schema)]
    if not isinstance(rows, np.ndarray):
        names = [name for name in names if _has_features(parts[name], rows)]
    if not names:
        received = f"{len(rows)} records" if width is None else f"shape {(len(rows), width)}"
        expected = "rows as wide as a registered task's"
        raise ShapeError("no candidate takes such rows", expected=expected, received=received)
    return names


def _has_features(part: ResolvedContext, records: list[Any]) -> bool:
    """Return True if a context's features are known, and records fit them."""
    try:
        part.encode(records[:1])
    except InputError:
        return False
    return part.features.known


def _of_one_loss(store: WeightStore, names: Sequence[str], rows: int, targets: Sequence[Target] | None) -> list[str]:
    """Return the contexts that can have such targets, of cross-entropy tasks if there are any."""
    by_loss: dict[str, list[str]] = {"cross_entropy": [], "mse": []}
    failure: SuperposedError | None = None
    for name in names:
        part = store.resolve(name)
        try:
            if targets is not None:
                read_targets(Batch((part,), None, torch.empty(rows, 0)), targets, store.config.network.outputs)
        except InputError as error:
            failure = failure or error
        else:
            by_loss[part.task.schema.loss].append(name)
    found = by_loss["cross_entropy"] or (by_loss["mse"] if targets is not None else [])
    if not found:
        problem = "without targets only cross-entropy tasks can be told apart"
        raise failure or ShapeError(problem, expected="targets", received="none")
    return found


def _evidence(
    store: WeightStore, inputs: NDArray[Any] | list[Any], targets: Sequence[Target] | None, names: Sequence[str]
) -> NDArray[np.float64]:
    """Return each context's sum over rows of energy, or of minus the loss: (candidates,), float64."""
    found: list[float] = []
    rows = len(inputs)
    at_once = max(1, min(_ROWS_AT_ONCE // rows, store.contexts.capacity))
    for start in range(0, len(names), at_once):
        batches = [store.batch(name, inputs) for name in names[start : start + at_once]]
        logits = store.logits(merge(batches)).view(len(batches), rows, -1)  # (candidates, B, store outputs)
        found += [_fit(store, *one, targets) for one in zip(batches, logits, strict=True)]
    return np.asarray(found)


def _fit(store: WeightStore, batch: Batch, logits: Tensor, targets: Sequence[Target] | None) -> float:
    schema = batch.parts[0].task.schema
    chance = math.log(schema.outputs) if schema.loss == "cross_entropy" else 0.0
    if targets is not None:
        aims = scaled_targets(batch, read_targets(batch, targets, store.config.network.outputs))
        return float((chance - row_losses(logits, batch.outputs(), aims).reported.double()).sum())
    own = logits[:, : schema.outputs].double()
    return float((torch.logsumexp(own, dim=1) - own.mean(1) - chance).sum())


def _ranked(names: Sequence[str], evidence: NDArray[np.float64], rows: int) -> Located:
    if not np.isfinite(evidence).all():
        raise NonFiniteInput("the answers are not finite: inputs or targets are too large")
    weights = np.exp(evidence - evidence.max())
    shares = weights / weights.sum()
    order = np.argsort(-evidence, kind="stable")[:_MOST_SHOWN]
    scores = tuple(Score(names[place], float(shares[place]), float(evidence[place])) for place in order)
    return Located(scores[0].context, scores, rows)
