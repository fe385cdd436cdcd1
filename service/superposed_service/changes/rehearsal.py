"""Changes about kept rows: rehearsing all tasks in one slice, and forgetting a task's rows."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from superposed.learning.consolidation import consolidate, judge
from superposed.nn import optimizers
from superposed.store.holdout import Split
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.targets import Targets
from superposed_service.changes.base import Change, JsonObject
from superposed_service.changes.exclusions import FORGET_ROWS
from superposed_service.errors import InvalidRequest
from superposed_service.storage import Entry, Record

__all__ = ["Consolidate", "ForgetRows"]

# Rows that a slice is judged by, always the same while the same rows are kept: slices can be compared.
_JUDGED_ROWS, _JUDGES_SEQUENCE = 2048, 0
_MOST_SHOWN = 1000


class Consolidate(Change):
    """One slice of rehearsal over all tasks, kept only where it does not make them worse.

    It is tried in `check`, so that the record holds the decision and replay need not decide again.

    Args:
        steps: Rehearsal steps.
        gaining: Whether it only counts where it makes them better.
    """

    kind = "consolidate"

    def __init__(self, steps: int, *, gaining: bool = False) -> None:
        self._steps = steps
        self._gaining = gaining
        self._answer: JsonObject = {}
        self._tried: dict[str, Tensor] | None = None

    def check(self, store: WeightStore) -> None:
        """Decides, unless the record that this is made of holds the decision.

        Raises:
            InvalidRequest: No rows are kept.
            UpdateError: The arithmetic refuses the slice.
        """
        if not self._answer:
            self._try(store)

    def _try(self, store: WeightStore) -> None:
        """Tries the slice, measures all tasks before and after it, and puts everything back."""
        share, drawn = _judges(store)
        before_state = {name: tensor.clone() for name, tensor in store.state().items()}
        sequence, before = store.sequence, judge(store, *drawn)
        try:
            consolidate(store, self._steps, share=share)
            after = judge(store, *drawn)
            after_state = {name: tensor.clone() for name, tensor in store.state().items()}
        finally:
            optimizers.load_state(store.network, store.optimizer, before_state)
            store.sequence = sequence
        shown = [dict(list(one.accuracy.items())[:_MOST_SHOWN]) for one in (before, after)]
        accepted = after.is_better_than(before) if self._gaining else after.is_no_worse_than(before)
        self._answer = {"before": shown[0], "after": shown[1], "accepted": accepted}
        self._tried = after_state

    def entry(self) -> Entry:
        """The decision, and what it rests on."""
        return Entry(self.kind, {"steps": self._steps, "answer": self._answer})

    def apply(self, store: WeightStore) -> JsonObject:
        """Takes the tried slice over where it was accepted; a replayed one is computed again."""
        if self._answer["accepted"] and self._tried is None:
            consolidate(store, self._steps, share=_judges(store)[0])
        else:
            if self._answer["accepted"] and self._tried is not None:
                optimizers.load_state(store.network, store.optimizer, self._tried)
            store.sequence += 1
        self._tried = None
        return {"sequence": store.sequence, **self._answer}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From the steps and the decision."""
        change = cls(record.head["steps"])
        change._answer = record.head["answer"]
        return change


def _judges(store: WeightStore) -> tuple[Split, tuple[Batch, Targets]]:
    """Which kept rows a slice learns, and those that it is judged by: others, unless there are too few.

    Raises:
        InvalidRequest: No rows are kept.
    """
    for learned, judging in ((Split.LEARNED, Split.HELD_OUT), (Split.ALL, Split.ALL)):
        drawn = store.draw(_JUDGED_ROWS, sequence=_JUDGES_SEQUENCE, share=judging)
        if drawn is not None:
            return learned, drawn
    raise InvalidRequest(
        "there are no kept rows to rehearse",
        expected="a store made with rehearsal rows, and updates",
        received="none",
    )


class ForgetRows(Change):
    """The rows that are kept of a task are forgotten; what they taught stays.

    It lasts: a rollback that takes the record out brings the rows of an older snapshot back for a moment,
    and the replay forgets them again.

    Args:
        key: The task.
        snapshots_until: Unix seconds from when on older snapshots, which may hold such rows, are removed;
            None where they hold none.
    """

    kind = FORGET_ROWS

    def __init__(self, key: str, snapshots_until: float | None = None) -> None:
        self._key, self._until = key, snapshots_until

    @property
    def task(self) -> str:
        """Its key."""
        return self._key

    def check(self, store: WeightStore) -> None:
        """Always possible."""

    def entry(self) -> Entry:
        """The key, and until when older snapshots stay."""
        return Entry(self.kind, {"key": self._key, "snapshots_until": self._until})

    def apply(self, store: WeightStore) -> JsonObject:
        """Answers how many there were."""
        return {"rows": store.forget_rows(self._key, missing_ok=True)}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From the key."""
        return cls(record.head["key"], record.head.get("snapshots_until"))
