"""Which cell has a task: asked when a task is first named, and again where its cell has it no more."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from superposed.contexts import as_expression, flatten
from superposed.errors import CompositionNotSupported
from superposed_service.cluster.cell import Call, Cell
from superposed_service.cluster.placement import choose_cell
from superposed_service.errors import NotReady

_MOST_KNOWN = 2**20


def keys_in(contexts: Iterable[Any]) -> list[str]:
    """Return the task keys that contexts name, each once; raises as `as_expression` where one is no context."""
    distinct = {str(one): one for one in contexts}.values()
    return list(dict.fromkeys(leaf.key for one in distinct for leaf in flatten(as_expression(one))))


@dataclass
class _Found:
    """Cells that have a task, those where it stands by, and why others did not say."""

    there: list[Cell] = field(default_factory=list)
    moving: list[Cell] = field(default_factory=list)
    failures: list[NotReady] = field(default_factory=list)


class TaskMap:
    """The cells, and what is known of where tasks are: no more than a cache of what the cells' journals say.

    Args:
        cells: By name.
        patterns: Cells of new tasks, as `choose_cell` has them.
    """

    def __init__(self, cells: Mapping[str, Cell], patterns: Mapping[str, str]) -> None:
        self._cells, self._patterns = cells, patterns
        self._known: dict[str, Cell] = {}

    def forget(self, keys: Iterable[str]) -> bool:
        """Forget where tasks are; return True if any was known."""
        return bool([key for key in keys if self._known.pop(key, None)])

    def home(self, key: str, group: str | None = None) -> Cell:
        """Return the cell that a new task would be registered in."""
        return self._cells[choose_cell(key, group, self._cells, self._patterns)]

    async def find(self, key: str, call: Call) -> Cell | None:
        """Return the cell that has a task, asked in the name of a request's client; None where none shows it to it.

        Raises:
            NotReady: A cell that may have it does not answer; or it changes cells now, and the request is a change.
        """
        if (known := self._known.get(key)) is not None:
            return known
        home = self.home(key)
        found = await self._search([home], key, call)
        if not found.there:
            found = await self._search([cell for cell in self._cells.values() if cell is not home], key, call, found)
        if found.there:
            return self._note(key, found.there[0])
        if found.moving and call.reads:
            return found.moving[0]
        if found.moving or found.failures:
            raise NotReady("the task changes cells now: send it again") if found.moving else found.failures[0]
        return None

    async def _search(self, cells: Sequence[Cell], key: str, call: Call, found: _Found | None = None) -> _Found:
        """Ask cells for a task, and add to what was found."""
        found = found or _Found()
        for cell, answer in zip(
            cells, await asyncio.gather(*(self._ask(one, key, call) for one in cells)), strict=True
        ):
            if isinstance(answer, NotReady):
                found.failures.append(answer)
            elif answer is not None:
                (found.moving if answer["standby"] else found.there).append(cell)
        return found

    def _note(self, key: str, cell: Cell) -> Cell:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = cell
        return cell

    async def _ask(self, cell: Cell, key: str, call: Call) -> dict[str, Any] | NotReady | None:
        """Return a cell's task, None where it has none; the reason where it cannot be told."""
        try:
            answer = await cell.send(call.asking(f"/v1/tasks/{quote(key)}"), patience_s=2.0)
        except NotReady as error:
            return error
        if answer.is_server_error:
            return NotReady(f"cell {cell.name} does not say which tasks it has", received=answer.status_code)
        task: dict[str, Any] | None = answer.json() if answer.is_success else None
        return task

    async def cells_of(self, keys: Iterable[str], call: Call) -> dict[str, Cell]:
        """Return the cell of each task; of one that is in none, the cell that it would be registered in."""
        return {key: await self.find(key, call) or self.home(key) for key in keys}

    async def cell_of(self, keys: Iterable[str], call: Call) -> Cell:
        """Return the one cell of all tasks of a context.

        Raises:
            CompositionNotSupported: They are in several cells.
        """
        cells = await self.cells_of(keys, call)
        names = sorted({cell.name for cell in cells.values()})
        if len(names) > 1:
            raise CompositionNotSupported(
                "tasks of several cells are in no network together: move one with `superposed cluster move KEY CELL`",
                expected="tasks of one cell",
                received=", ".join(f"{key} in {cell.name}" for key, cell in cells.items())[:300],
            )
        return next(iter(cells.values()))
