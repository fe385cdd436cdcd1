"""Changes about kept rows: rehearsing all tasks in one slice, and forgetting a task's rows."""

from dataclasses import dataclass

from torch import Tensor

from superposed.learning.consolidation import consolidate, judge
from superposed.nn import optimizers
from superposed.store.replay_buffer import Split
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.targets import Targets
from superposed_service.changes.base import Change, JsonObject, PreparedChange
from superposed_service.changes.exclusions import FORGET_ROWS
from superposed_service.errors import InvalidRequest
from superposed_service.storage import Entry

# Rows that a slice is judged by, always the same while the same rows are kept: slices can be compared.
_JUDGED_ROWS, _JUDGES_SEQUENCE = 2048, 0
_MOST_SHOWN = 1000


@dataclass(eq=False)
class Consolidate(Change):
    """One slice of rehearsal over all tasks, kept only where it does not make them worse.

    `prepare` tries it, so that the record holds the decision and replay need not decide again.
    """

    kind = "consolidate"

    steps: int
    answer: JsonObject | None = None  # the decision of a record; None for a slice that is new

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Try the slice, unless the record holds the decision.

        Raise `InvalidRequest` where no rows are kept, and `UpdateError` where the arithmetic rejects the slice.
        """
        decided, tried = (self.answer, None) if self.answer else self._try(store)

        def apply(store: WeightStore) -> JsonObject:
            if decided["accepted"] and tried is None:  # a replayed slice is computed again
                consolidate(store, self.steps, share=_judges(store)[0])
            else:
                if decided["accepted"] and tried is not None:
                    optimizers.load_state(store.network, store.optimizer, tried)
                store.sequence += 1
            return {"sequence": store.sequence, **decided}

        return PreparedChange(lambda: Entry(self.kind, {"steps": self.steps, "answer": decided}), apply)

    def _try(self, store: WeightStore) -> tuple[JsonObject, dict[str, Tensor]]:
        """Try the slice, measure all tasks before and after it, and put everything back."""
        share, drawn = _judges(store)
        before_state = {name: tensor.clone() for name, tensor in store.state().items()}
        sequence, before = store.sequence, judge(store, *drawn)
        try:
            consolidate(store, self.steps, share=share)
            after = judge(store, *drawn)
            after_state = {name: tensor.clone() for name, tensor in store.state().items()}
        finally:
            optimizers.load_state(store.network, store.optimizer, before_state)
            store.sequence = sequence
        shown = [dict(list(one.accuracy.items())[:_MOST_SHOWN]) for one in (before, after)]
        accepted = after.is_no_worse_than(before)
        return {"before": shown[0], "after": shown[1], "accepted": accepted}, after_state


def _judges(store: WeightStore) -> tuple[Split, tuple[Batch, Targets]]:
    """Return the split that a slice learns, and the kept rows that judge it: others, if there are enough."""
    for learned, judging in ((Split.LEARNED, Split.HELD_OUT), (Split.ALL, Split.ALL)):
        drawn = store.draw(_JUDGED_ROWS, sequence=_JUDGES_SEQUENCE, share=judging)
        if drawn is not None:
            return learned, drawn
    wanted = "a store made with rehearsal rows, and updates"
    raise InvalidRequest("there are no kept rows to rehearse", expected=wanted, received="none")


@dataclass(eq=False)
class ForgetRows(Change):
    """The rows that are kept of a task are forgotten; what they taught stays.

    It lasts: a rollback that takes the record out brings the rows of an older snapshot back for a moment,
    and the replay forgets them again.
    """

    kind = FORGET_ROWS

    key: str
    # Unix seconds from when on older snapshots, which may hold such rows, are removed; None where they hold none
    snapshots_until: float | None = None

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Accept any key, also of a task that was deleted."""

        def apply(store: WeightStore) -> JsonObject:
            return {"rows": store.forget_rows(self.key, missing_ok=True)}

        head = {"key": self.key, "snapshots_until": self.snapshots_until}
        return PreparedChange(lambda: Entry(self.kind, head), apply, self.key)
