"""From rows that wait to one mixed batch, and from its logits back to an answer for each of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from superposed.batch import Batch, merge
from superposed.errors import NonFiniteInput, SuperposedError
from superposed.store import WeightStore
from superposed_service.rows import Answer, Rows

__all__ = ["answer_rows"]

Outcome = Answer | Exception


def answer_rows(store: WeightStore, several: Sequence[Rows]) -> list[Outcome]:
    """Answers several requests' rows in one mixed batch. The engine's thread only.

    Returns:
        For each request its answer, or what it is refused with; one that cannot be answered spoils no other.
    """
    outcomes: dict[int, Outcome] = {}
    ready: list[tuple[int, Batch]] = []
    for place, rows in enumerate(several):
        try:
            ready.append((place, rows.batch(store)))
        except Exception as error:  # noqa: BLE001 - belongs to this request, not to the engine
            outcomes[place] = error
    outcomes.update(_answered(store, ready))
    return [outcomes[place] for place in range(len(several))]


def _answered(store: WeightStore, ready: Sequence[tuple[int, Batch]]) -> dict[int, Outcome]:
    if not ready:
        return {}
    try:
        answers = _together(store, [batch for _, batch in ready])
    except SuperposedError as error:
        if len(ready) == 1:
            return {ready[0][0]: error}
        # One request's context may not exist in this family: then each answers for itself.
        return {place: outcome for one in ready for place, outcome in _answered(store, [one]).items()}
    except Exception as error:  # noqa: BLE001 - a bug must not end the engine
        return {place: error for place, _ in ready}
    return {place: answer for (place, _), answer in zip(ready, answers, strict=True)}


def _together(store: WeightStore, batches: Sequence[Batch]) -> list[Outcome]:
    logits = store.logits(merge(batches)).numpy()
    finite = bool(np.isfinite(logits).all())
    outcomes: list[Outcome] = []
    start = 0
    for batch in batches:
        own = logits[start : start + len(batch)]
        start += len(batch)
        if not (finite or np.isfinite(own).all()):
            outcomes.append(
                NonFiniteInput("the answer is not finite: the inputs are too large for this store")
            )
            continue
        places = np.zeros(len(batch), np.int64) if batch.index is None else batch.index.numpy()
        schemas = tuple(part.task.schema for part in batch.parts)
        outcomes.append(Answer(store.sequence, schemas, places, own))
    return outcomes
