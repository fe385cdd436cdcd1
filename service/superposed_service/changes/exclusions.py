"""Journalled records that are not applied: rejected ones, and those that a rollback took out.

Both are decisions that stand in the journal themselves; replay reads them and never decides again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from superposed_service.storage import Journal

# Records that say something about others: they take a sequence number and change nothing themselves.
# `EPOCH` is a new leader's first record.
REFUSAL, ROLLBACK, EPOCH = "refusal", "rollback", "epoch"
# A record that takes another out, and teaches its rows again.
RELABEL = "relabel"
DECISIONS = frozenset({REFUSAL, ROLLBACK, EPOCH})
TAKING_OUT = frozenset({ROLLBACK, RELABEL})
# Records that are applied also where a rollback took them out: what was erased does not come back.
FORGET_ROWS = "forget-rows"
LASTING = frozenset({FORGET_ROWS})


def ranges(sequences: Iterable[int]) -> list[tuple[int, int]]:
    """Return sequence numbers as the fewest ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for sequence in sorted(sequences):
        if found and found[-1][1] == sequence - 1:
            found[-1] = (found[-1][0], sequence)
        else:
            found.append((sequence, sequence))
    return found


@dataclass(frozen=True)
class RollbackDecision:
    """A rollback's decision."""

    sequence: int  # its own place in the journal
    excluded: Sequence[tuple[int, int]]  # ranges of records that it took out, both ends included
    schema_stays: bool = False  # whether what they added to schemas stays: labels, and features of records

    def covers(self, sequence: int) -> bool:
        """Return True if the rollback took a record out."""
        return any(first <= sequence <= last for first, last in self.excluded)


class Exclusions:
    """Records that are not applied, by the journal's own decisions.

    `refused` are records that were refused when they were applied; `rollbacks` all rollbacks, also those that later
    ones took out themselves.
    """

    def __init__(self, refused: Iterable[int], rollbacks: Sequence[RollbackDecision]) -> None:
        self._refused = frozenset(refused)
        self.rollbacks = tuple(rollbacks)
        self._active: list[RollbackDecision] = []
        for rollback in sorted(rollbacks, key=lambda one: one.sequence, reverse=True):
            if not any(later.covers(rollback.sequence) for later in self._active):
                self._active.append(rollback)

    @classmethod
    def read(cls, journal: Journal, through: int, *, checked: bool = False) -> "Exclusions":
        """Return a journal's decisions up to `through`; its hash chain is followed unless `checked` by this process."""
        kinds, refused, rollbacks = {REFUSAL} | TAKING_OUT, [], []
        for sequence, kind, head in journal.rare(kinds) if checked else journal.heads(kinds):
            if kind == REFUSAL:
                refused.append(head["sequence"])
            elif sequence <= through:
                excluded = [(first, last) for first, last in head["excluded"]]
                rollbacks.append(RollbackDecision(sequence, excluded, kind == RELABEL))
        return cls(refused, rollbacks)

    def with_rollback(self, rollback: RollbackDecision) -> "Exclusions":
        """Return the same, and one more rollback."""
        return Exclusions(self._refused, [*self.rollbacks, rollback])

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._refused or any(one.covers(sequence) for one in self._active)

    def schema_stays(self, sequence: int) -> bool:
        """Return True if only the rows of a record were taken out, and not what it added to schemas."""
        covering = [one for one in self._active if one.covers(sequence)]
        return sequence not in self._refused and bool(covering) and all(one.schema_stays for one in covering)

    def allows_start(self, sequence: int) -> bool:
        """Return True if the store after that record held nothing that was taken out later."""
        later = [one.excluded for one in self._active if one.sequence > sequence]
        return not any(first <= sequence for excluded in later for first, _ in excluded)
