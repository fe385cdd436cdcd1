"""What goes into the engine and what comes out: rows as a request brings them, and their answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superposed.batch import Batch
from superposed.store import WeightStore
from superposed.task_schema import TaskSchema

__all__ = ["Answer", "Rows"]


@dataclass(frozen=True)
class Rows:
    """Rows as they came in: one context for all of them, or one for each.

    Args:
        context: A context for all rows; None where `contexts` is given.
        contexts: (B,) contexts; None where `context` is given.
        inputs: (B, features): an array, or a list of rows.
    """

    context: object
    contexts: Sequence[object] | None
    inputs: Any

    def __len__(self) -> int:
        try:
            return len(self.inputs)
        except TypeError:
            return 0

    def batch(self, store: WeightStore) -> Batch:
        """Checks the rows against the store's tasks.

        Raises:
            ContextError: A context that cannot be addressed.
            InputError: Rows that cannot be used.
        """
        if self.contexts is None:
            return store.batch(self.context, self.inputs)
        return store.batch_per_row(self.contexts, self.inputs)


@dataclass(frozen=True)
class Answer:
    """What inference found.

    Args:
        sequence: Of the weights that answered.
        tasks: The K tasks that the rows belong to.
        places: (B,) each row's place in `tasks`.
        logits: (B, store outputs); each row's task says how many of them are its own.
    """

    sequence: int
    tasks: tuple[TaskSchema, ...]
    places: NDArray[np.int64]
    logits: NDArray[Any]
