"""Moving a task to another cell: it is taught there again, and the first cell gives it up between two updates.

No tensor belongs to a task, so nothing is copied: the other cell learns the first one's journalled updates of it, and
the rows kept for rehearsal where the journal has not every update. What breaks off is taken up by another attempt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from superposed_client import Client, UnknownTask
from superposed_client._core import credentials
from superposed_client.models import TaskInfo
from superposed_service.api.v1.schemas import TaskRegistration
from superposed_service.errors import InvalidRequest, NotReady

_SCHEMA = TaskRegistration.model_fields.keys() - {"key", "group", "own_layers", "composition", "standby"}
_MOST_PASSES, _MOST_COMPARED = 10, 1024


@dataclass(frozen=True)
class Moved:
    """The outcome: `agreement` is the share of compared rows that both cells answer alike, None without such rows."""

    updates: int
    rows: int
    agreement: float | None


def cell_of(url: str, key: str) -> str:
    """Return the cell where the ingress finds a task; raise `NotReady` where it does not say."""
    try:
        answer = httpx.get(f"{url}/v1/tasks/{key}", headers=credentials(None), timeout=60.0)
    except httpx.TransportError as error:
        raise NotReady(f"no ingress answers at {url}", received=repr(error)) from None
    if "x-cell" not in answer.headers or not answer.is_success:
        raise NotReady(f"the ingress at {url} does not say which cell has {key}", received=answer.text[:300])
    return answer.headers["x-cell"]


def move_task(
    url: str, key: str, source: str, target: str, *, enough: float = 0.995, progress: Callable[[str], object] = print
) -> Moved:
    """Move a task from one cell to another, while both go on.

    `source` is the cell that has it, or had it before an attempt that broke off. Its updates are taught up to ten
    times, until the agreement of both cells is `enough`; `progress` is told how far it is.

    Raise `InvalidRequest` for one in a group, or a composition, which share weights or contexts with other tasks.
    """
    with Client(url, cell=source) as here, Client(url, cell=target) as there:
        try:
            info = here.get_task(key)
        except UnknownTask:
            there.alter_task(key, standby=False)  # an earlier attempt came so far
            return Moved(there.get_task(key).updates, 0, None)
        if info.group or info.composition:
            text = "a task in a group, and a composition, stay where the tasks are that they share contexts with"
            raise InvalidRequest(text, expected="a task of its own", received=info.group or info.composition)
        schema = {name: value for name in _SCHEMA if (value := getattr(info, name)) is not None}
        there.register_task(key, standby=True, **schema)
        copy = _Copy(here, there, key, progress)
        copy.catch_up(most=info.updates)
        for passes in range(_MOST_PASSES):
            if passes:
                copy.teach_again()
            if (agreement := copy.agreement(info)) is None or agreement >= enough:
                break
        copy.catch_up(most=here.get_task(key).updates)
        here.alter_task(key, standby=True)  # from here on updates wait, for as long as the last ones take
        copy.catch_up()
        here.delete_task(key, updates=here.get_task(key).updates)
        there.alter_task(key, standby=False)
        return Moved(len(copy.taught), copy.rows, agreement)


class _Copy:
    """A task that is taught in another cell what it was taught in the first."""

    def __init__(self, here: Client, there: Client, key: str, progress: Callable[[str], object]) -> None:
        self._here, self._there, self._key, self._progress = here, there, key, progress
        self.taught: list[dict[str, Any]] = []
        self.rows = 0

    def catch_up(self, most: int | None = None) -> None:
        """Teach what the first cell was taught since the last one that was taught here, up to a number of updates."""
        while most is None or len(self.taught) < most:
            after = self.taught[-1]["sequence"] if self.taught else 0
            if not (found := self._here.task_rows(self._key, after=after)):
                break
            for one in found:
                self._teach(one, "sequence")
            self.taught += found
            self.rows += sum(len(one["targets"]) for one in found)
            self._progress(f"{self._key}: {len(self.taught)} updates, {self.rows} rows")

    def teach_again(self) -> None:
        """Teach all of it once more."""
        for one in self.taught:
            self._teach(one, "sequence", "origin")

    def _teach(self, one: dict[str, Any], *left_out: str) -> None:
        body = {name: value for name, value in one.items() if name not in left_out}
        self._there.send("POST", "/v1/update", body | {"context": self._key, "standby": True})

    def agreement(self, info: TaskInfo) -> float | None:
        """Return the share of the newest taught rows that both cells answer alike; None where there are none."""
        alike: list[bool] = []
        for one in reversed(self.taught):
            rows = one.get("records") or one["inputs"]
            first, other = (client.infer(self._key, rows) for client in (self._here, self._there))
            if info.loss == "mse":
                spread = np.std(one["targets"], axis=0) + 1e-9
                values = [np.asarray(answer.values, dtype=np.float64) for answer in (first, other)]
                near = np.abs(values[0] - values[1]) <= spread / 2
                alike += near.reshape(len(near), -1).all(1).tolist()
            else:
                alike += [a == b for a, b in zip(first.labels or [], other.labels or [], strict=True)]
            if len(alike) >= _MOST_COMPARED:
                break
        share = sum(alike) / len(alike) if alike else None
        self._progress(f"{self._key}: {'nothing to compare' if share is None else f'{share:.1%} answered alike'}")
        return share
