"""Rows of a request, with their contexts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superposed.config import OriginalKind
from superposed.errors import check_most
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch


@dataclass(frozen=True)
class Originals:
    """Texts or images that rows are encoded from."""

    kind: OriginalKind | None  # what they are; None for what the rows' task takes, from bytes
    items: Sequence[str | bytes]  # (B,) texts, or files' bytes


@dataclass(frozen=True)
class RowBatch:
    """Rows as they came in: one context for all of them, or one for each."""

    context: object  # a context for all rows; None where `contexts` is given
    contexts: Sequence[object] | None  # (B,) contexts; None where `context` is given
    inputs: Any  # (B, features): an array, or a list of rows
    originals: Originals | None = None  # what the rows are encoded from; in place of `inputs`, until they are

    @property
    def are_records(self) -> bool:
        """True for records of named values."""
        values = self.inputs
        return isinstance(values, list | tuple) and bool(values) and isinstance(values[0], Mapping)

    def __len__(self) -> int:
        try:
            return len(self.inputs if self.originals is None else self.originals.items)
        except TypeError:
            return 0

    def check(self, most_rows: int, most_numbers: int) -> None:
        """Raise `CapacityExceeded` for too many rows, contexts or numbers in a row, before anything reads them."""
        check_most("more rows than one request may have", max(len(self), len(self.contexts or ())), most_rows)
        shape = getattr(self.inputs, "shape", None)
        if shape is None:
            lists = self.inputs if isinstance(self.inputs, list) else []
            longest = max((len(row) for row in lists if isinstance(row, list | dict)), default=0)
        else:
            longest = math.prod(shape[1:])
        check_most("more numbers in a row than there may be", longest, most_numbers)

    def batch(self, store: WeightStore, *, learning: bool = False) -> Batch:
        """Check the rows against the store's tasks; with `learning`, for an update.

        Raise `ContextError` for a context that cannot be addressed, and `InputError` for rows that cannot be used.
        """
        if self.contexts is None:
            return store.batch(self.context, self.inputs, learning=learning)
        return store.batch_per_row(self.contexts, self.inputs, learning=learning)
