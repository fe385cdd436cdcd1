"""The cell of each task: asked for when a task is first named, and again where its cell has it no more."""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from superposed.contexts import as_expression, flatten
from superposed.errors import CompositionNotSupported
from superposed_service.cluster.cell import Call, Cell
from superposed_service.errors import NotReady

_MOST_KNOWN = 2**20


def choose_cell(key: str, cells: Iterable[str], patterns: Mapping[str, str]) -> str:
    """Return the cell of a new task or group; those with the same text before a dot in their keys share one.

    `patterns` are patterns of keys (`*` and `?`), each with a cell: the first that fits counts. Without
    one it is rendezvous hashing (Thaler and Ravishankar 1998), so that a further cell takes only its own share.
    """
    for pattern, cell in patterns.items():
        if fnmatchcase(key, pattern):
            return cell
    tenant = key.partition(".")[0]
    return max(cells, key=lambda cell: hashlib.sha256(f"{cell}\n{tenant}".encode()).digest())


def keys_in(contexts: Iterable[Any]) -> list[str]:
    """Return the task keys that contexts name, each once; raises as `as_expression` where one is no context."""
    distinct = {str(one): one for one in contexts}.values()
    return list(dict.fromkeys(leaf.key for one in distinct for leaf in flatten(as_expression(one))))


class TaskMap:
    """The cells, and what is known of where tasks are: no more than a cache of what the cells' journals say.

    The `patterns` of new tasks are as `choose_cell` has them.
    """

    def __init__(self, cells: Mapping[str, Cell], patterns: Mapping[str, str]) -> None:
        self._cells, self._patterns = cells, patterns
        self._known: dict[str, Cell] = {}

    def forget(self, keys: Iterable[str]) -> bool:
        """Forget where tasks are; return True if any was known."""
        return bool([key for key in keys if self._known.pop(key, None)])

    def home(self, key: str) -> Cell:
        """Return the cell that a new task would be registered in."""
        return self._cells[choose_cell(key, self._cells, self._patterns)]

    async def find(self, key: str, call: Call) -> Cell | None:
        """Return the cell that has a task, asked in the name of a request's client; None where none shows it to it.

        Raise `NotReady` where a cell that may have it does not answer; or where it changes cells now, and the request
        is a change.
        """
        if (known := self._known.get(key)) is not None:
            return known
        home, answers = self.home(key), dict[str, dict[str, Any] | NotReady]()
        for cells in ([home], [cell for cell in self._cells.values() if cell is not home]):
            answers |= await self._search(cells, key, call)
            tasks = {name: one for name, one in answers.items() if not isinstance(one, NotReady)}
            if there := [self._cells[name] for name, task in tasks.items() if not task["standby"]]:
                return self._note(key, there[0])
        if tasks and call.reads:  # it stands by, and answers
            return self._cells[next(iter(tasks))]
        if tasks:
            raise NotReady("the task changes cells now: send it again")
        if failure := next((one for one in answers.values() if isinstance(one, NotReady)), None):
            raise failure
        return None

    async def _search(self, cells: Sequence[Cell], key: str, call: Call) -> dict[str, dict[str, Any] | NotReady]:
        """Return the task as cells have it, by their names, or why one of them cannot tell."""
        found = await asyncio.gather(*(self._ask(cell, key, call) for cell in cells))
        return {cell.name: answer for cell, answer in zip(cells, found, strict=True) if answer is not None}

    def _note(self, key: str, cell: Cell) -> Cell:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = cell
        return cell

    async def _ask(self, cell: Cell, key: str, call: Call) -> dict[str, Any] | NotReady | None:
        try:
            answer = await cell.send(call.asking(f"/v1/tasks/{quote(key)}"), patience_s=2.0)
        except NotReady as error:
            return error
        if answer.status_code >= 500:
            return NotReady(f"cell {cell.name} does not say which tasks it has", received=answer.status_code)
        task: dict[str, Any] | None = None if answer.is_error else answer.json()
        return task

    async def cells_of(self, keys: Iterable[str], call: Call) -> dict[str, Cell]:
        """Return the cell of each task; of one that is in none, the cell that it would be registered in."""
        return {key: await self.find(key, call) or self.home(key) for key in keys}

    async def cell_of(self, keys: Iterable[str], call: Call) -> Cell:
        """Return the one cell of tasks, any cell of none; raise `CompositionNotSupported` where they are in several."""
        cells = await self.cells_of(keys, call)
        if len({cell.name for cell in cells.values()}) > 1:
            text = "tasks of several cells are in no network together: move one with `superposed cluster move KEY CELL`"
            places = ", ".join(f"{key} in {cell.name}" for key, cell in cells.items())[:300]
            raise CompositionNotSupported(text, expected="tasks of one cell", received=places)
        return next(iter(cells.values()), next(iter(self._cells.values())))
