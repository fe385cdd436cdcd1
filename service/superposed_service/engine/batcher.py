"""From rows that wait to one mixed batch, and from its logits back to an answer for each of them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superposed.analysis.scope import in_scope
from superposed.errors import NonFiniteInput, SuperposedError
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch, ResolvedContext, merge
from superposed.tasks.schema import TaskSchema
from superposed_service.changes.rows import RowBatch


@dataclass(frozen=True)
class InferenceResult:
    """Result of inference."""

    sequence: int  # of the weights that answered
    tasks: tuple[TaskSchema, ...]  # the K tasks that the rows belong to
    places: NDArray[np.int64]  # (B,) each row's place in `tasks`
    logits: NDArray[Any]  # (B, store outputs); each row's task says how many of them are its own
    temperatures: tuple[float, ...]  # what each task's logits are divided by for its probabilities
    # (B,) False where a task abstains; None where none of the tasks ever does
    in_scope: NDArray[np.bool_] | None = None


Outcome = InferenceResult | Exception


@dataclass(frozen=True)
class _Share:
    """One request's rows in the mixed batch; `places` (B,) says which of the parts each row has."""

    place: int
    parts: tuple[ResolvedContext, ...]
    places: NDArray[np.int64]


def answer_rows(store: WeightStore, several: Sequence[RowBatch]) -> list[Outcome]:
    """Answer several requests' rows in one mixed batch. The owner of the store calls it.

    Return for each request its answer, or what it is refused with; one that cannot be answered spoils no other.
    """
    outcomes: dict[int, Outcome] = {}
    batches, shares = _prepare(store, several, outcomes)
    try:
        outcomes.update(_answered(store, several, batches, shares))
    except SuperposedError as error:
        if len(shares) == 1:
            outcomes[shares[0].place] = error
        else:
            # One request's context may not exist in this family: then each answers for itself.
            outcomes.update({one.place: answer_rows(store, [several[one.place]])[0] for one in shares})
    except Exception as error:  # noqa: BLE001 - a bug must not end the engine
        outcomes.update({one.place: error for one in shares})
    return [outcomes[place] for place in range(len(several))]


def _prepare(
    store: WeightStore, several: Sequence[RowBatch], outcomes: dict[int, Outcome]
) -> tuple[list[Batch], list[_Share]]:
    """Return the rows that can be answered, and whose they are, in order; errors go to `outcomes`."""
    resolved: dict[int, ResolvedContext] = {}
    batches: list[Batch] = []
    shares: list[_Share] = []
    # What is wrong with some rows or contexts is found, and told, one by one.
    for place, rows in enumerate(several):
        with contextlib.suppress(Exception):
            if rows.contexts is None:
                resolved[place] = store.resolve(rows.context)
    with contextlib.suppress(Exception):
        if (alike := store.batch_each(list(resolved.values()), [several[at].inputs for at in resolved])) is not None:
            batches.append(alike)
            shares += [_Share(at, (part,), np.zeros(len(several[at]), np.int64)) for at, part in resolved.items()]
    done = {share.place for share in shares}
    for place in (place for place in range(len(several)) if place not in done):
        try:
            batch = several[place].batch(store)
        except Exception as error:  # noqa: BLE001 - belongs to this request, not to the engine
            outcomes[place] = error
        else:
            batches.append(batch)
            shares.append(_Share(place, batch.parts, batch.places().numpy()))
    return batches, shares


def _answered(
    store: WeightStore, several: Sequence[RowBatch], batches: Sequence[Batch], shares: Sequence[_Share]
) -> dict[int, Outcome]:
    if not shares:
        return {}
    logits = store.answers(merge(batches)).numpy()
    finite = bool(np.isfinite(logits).all())
    outcomes: dict[int, Outcome] = {}
    start = 0
    for share in shares:
        own = logits[start : start + len(share.places)]
        start += len(share.places)
        if not (finite or np.isfinite(own).all()):
            outcomes[share.place] = NonFiniteInput("the answer is not finite: the inputs are too large for this store")
            continue
        schemas = tuple(part.task.schema for part in share.parts)
        temperatures = tuple(part.task.calibration.temperature for part in share.parts)
        scope = _in_scope(store, several[share.place].inputs, schemas, share.places)
        outcomes[share.place] = InferenceResult(store.sequence, schemas, share.places, own, temperatures, scope)
    return outcomes


def _in_scope(
    store: WeightStore, inputs: Any, schemas: Sequence[TaskSchema], places: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """Return which rows (B,) are labelled; None where no task abstains."""
    if all(schema.abstain is None for schema in schemas):
        return None
    found = np.ones(len(places), dtype=bool)
    for place, schema in enumerate(schemas):
        rows = np.flatnonzero(places == place)
        if schema.abstain is not None:
            own = np.asarray([inputs[row] for row in rows], dtype=np.float32)
            found[rows] = in_scope(store, schema.key, own)
    return found
