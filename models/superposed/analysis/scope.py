"""Scope of a task: which texts are like those that it learned, and which are about something else.

A text is as near as the cosine between its encoding and the nearest mean of a class, over the task's kept rows. The
threshold is the share `abstain` of how near the kept rows are, each to means without it. Weights play no part.

Source: Mensink, Verbeek, Perronnin, Csurka, "Distance-based image classification: generalizing to new classes
at near-zero cost", TPAMI 2013 (nearest class mean).
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from superposed.store.store import WeightStore

# Fewer kept rows say nothing yet: the task does not abstain.
_LEAST_ROWS = 8
_MOST_BYTES = 32 * 2**20
_TINY = 1e-12


@dataclass(frozen=True)
class Scope:
    """Class means (C, n) of a task's kept rows, of length 1, and the smallest cosine of a row in scope."""

    means: NDArray[np.float32]
    threshold: float

    @classmethod
    def of(cls, rows: NDArray[Any], classes: NDArray[np.int64], share: float) -> Self | None:
        """Return the scope of rows (B, n), before scaling, of class indexes (B,); None where they are too few.

        `share` is the share of the rows that would be out of scope.
        """
        rows = np.ascontiguousarray(rows)
        first = list({row.tobytes(): place for place, row in enumerate(rows)}.values())
        rows, classes = rows[first], classes[first]  # a row that came twice would vouch for itself
        if len(rows) < _LEAST_ROWS:
            return None
        units = _units(rows)
        _, places, counts = np.unique(classes, return_inverse=True, return_counts=True)
        sums = np.zeros((len(counts), rows.shape[1]), dtype=np.float32)
        np.add.at(sums, places, units)
        means = _units(sums)
        near = units @ means.T  # (B, C)
        own = np.arange(len(rows)), places
        along = (units * sums[places]).sum(1)
        rest = np.square(sums[places]).sum(1) - 2 * along + 1  # squared length of the sum without the row
        near[own] = np.where(counts[places] > 1, (along - 1) / np.sqrt(np.maximum(rest, _TINY)), -1.0)
        return cls(means, float(np.quantile(near.max(1), share)))

    def nearness(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Return the cosine (B,) of rows (B, n) with the nearest mean."""
        found: NDArray[np.float32] = (_units(rows) @ self.means.T).max(1)
        return found


def _units(rows: NDArray[Any]) -> NDArray[np.float32]:
    rows = np.asarray(rows, dtype=np.float32)
    units: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(_TINY))
    return units


def in_scope(store: WeightStore, key: str, rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows (B, inputs), encoded texts before scaling, a task labels; all where it does not abstain.

    The scope is worked out again once the task was taught or lost rows. The owner of the store calls it.
    """
    state, buffer = store.tasks.get(key), store.replay_buffer
    if (share := state.schema.abstain) is None:
        return np.ones(len(rows), dtype=bool)
    known = buffer.derived
    version = (state.generation, state.last_sequence, share, buffer.rows_kept(key))
    if key not in known or known[key][0] != version:
        scope = Scope.of(*buffer.rows_of(key, state.schema.inputs), share)
        known.pop(key, None)  # it comes last
        known[key] = (version, scope)
        while len(known) > max(1, _MOST_BYTES // (1 if scope is None else scope.means.nbytes)):
            known.popitem(last=False)
    known.move_to_end(key)
    found: Scope | None = known[key][1]
    return np.ones(len(rows), dtype=bool) if found is None else found.nearness(rows) >= found.threshold
