"""Results of evaluations: each task's accuracy at the numbers of tasks it was measured at."""

from collections.abc import Container
from dataclasses import asdict, dataclass, replace
from typing import Any

# Evaluations kept of each task, the newest.
KEPT = 64


@dataclass(frozen=True)
class Evaluation:
    """Share of `rows` rows answered right by the weights of `sequence`, once `tasks` tasks had been taught."""

    tasks: int
    sequence: int
    rows: int
    accuracy: float


class Evaluations:
    """The evaluations of all tasks, at most one for each number of tasks, at most `KEPT` a task."""

    def __init__(self) -> None:
        self._by_task: dict[str, dict[int, Evaluation]] = {}

    def remember(self, key: str, evaluation: Evaluation) -> None:
        """Add a measurement: rows measured on the same weights count together, newer weights replace."""
        history = self._by_task.setdefault(key, {})
        before = history.pop(evaluation.tasks, None)
        if before is not None and before.sequence == evaluation.sequence:
            rows = before.rows + evaluation.rows
            correct = before.rows * before.accuracy + evaluation.rows * evaluation.accuracy
            evaluation = replace(evaluation, rows=rows, accuracy=correct / rows)
        history[evaluation.tasks] = evaluation
        while len(history) > KEPT:
            del history[min(history, key=lambda tasks: history[tasks].sequence)]

    def forget(self, key: str) -> None:
        """Drop a task's evaluations."""
        self._by_task.pop(key, None)

    def take_over(self, other: "Evaluations", keys: Container[str], before: int) -> None:
        """Take over what another store's evaluations say of some tasks, of weights before a record."""
        for key, history in other._by_task.items():
            known = {tasks: one for tasks, one in history.items() if one.sequence < before}
            if known and key in keys:
                self._by_task[key] = self._by_task.get(key, {}) | known

    def of(self, key: str) -> list[Evaluation]:
        """Return a task's evaluations, from the oldest weights to the newest."""
        return sorted(self._by_task.get(key, {}).values(), key=lambda one: one.sequence)

    def all(self) -> list[Evaluation]:
        """Return every evaluation of every task."""
        return [evaluation for history in self._by_task.values() for evaluation in history.values()]

    def to_json(self) -> dict[str, Any]:
        """Return all evaluations as JSON values."""
        return {key: [asdict(one) for one in history.values()] for key, history in self._by_task.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Evaluations":
        """Return the inverse of `to_json`."""
        evaluations = cls()
        for key, history in values.items():
            for one in history:
                evaluations.remember(key, Evaluation(**one))
        return evaluations
