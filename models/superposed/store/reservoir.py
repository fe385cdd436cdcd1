"""Allocation of a bounded store's slots to tasks, and the task that gives one up for another."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What it takes to remember one place, with the room that a growing array has to spare.
PLACE_BYTES = 8


@dataclass
class _Pool:
    """The places of one task's rows, and how many rows of it they are a sample of."""

    age: int
    places: array[int] = field(default_factory=lambda: array("i"))
    seen: int = 0


class ReservoirAllocator:
    """A uniform sample of each task's stream, bounded for each and for all together.

    When all places are used up, the task that has most (of equals the oldest) gives one up for a task
    that has fewer. A task has `rows_per_task` places at most, and all have `capacity` together.

    Source: algorithm R of Vitter 1985, for each task.
    """

    def __init__(self, rows_per_task: int, capacity: int) -> None:
        self._rows_per_task, self._capacity = rows_per_task, capacity
        self.used = 0
        self._free: list[int] = []
        self._pools: dict[str, _Pool] = {}
        self._ages = 0
        # A heap of (-places, age, key), made when it is needed; sizes of before may stand in it too.
        self._by_size: list[tuple[int, int, str]] | None = None

    def kept(self, key: str) -> int:
        """Return the number of slots of a task."""
        return len(self._pools[key].places) if key in self._pools else 0

    def of(self, key: str) -> array[int]:
        """Return the places of a task."""
        return self._pools[key].places if key in self._pools else array("i")

    def keys(self) -> list[str]:
        """Return the keys of the tasks that have places or had some."""
        return list(self._pools)

    def of_others(self, keys: Collection[str]) -> list[array[int]]:
        """Return the places of every task that has some, but not of these."""
        return [pool.places for key, pool in self._pools.items() if pool.places and key not in keys]

    def place_for(self, key: str, chance: float, other: float) -> int | None:
        """Return the slot of a task's next row; None where the row is not kept.

        Two numbers on [0, 1) decide: `chance` if the row is kept, and in whose place; `other` which row another
        task gives up for it.
        """
        if (pool := self._pools.get(key)) is None:
            pool = self._pools[key] = _Pool(self._ages)
            self._ages += 1
        pool.seen += 1
        taken = int(chance * pool.seen)
        # Also where rows were turned away before, each of those seen has the same chance to be kept.
        if taken <= len(pool.places) < self._rows_per_task:
            place = self._new_place(pool, other)
            if place is not None:
                pool.places.append(place)
                self._resized(key, pool)
                return place
        return pool.places[taken] if taken < len(pool.places) else None

    def is_full(self, key: str) -> bool:
        """Return True if a task has as many places as it may have."""
        return self.kept(key) == self._rows_per_task

    def places_of_full(self, key: str, chances: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return what `place_for` does for several rows of a task that is full, -1 for None."""
        pool = self._pools[key]
        taken = (chances * (pool.seen + 1 + np.arange(len(chances)))).astype(np.int64)
        pool.seen += len(chances)
        places = np.append(np.asarray(pool.places, dtype=np.int64), -1)
        return places[np.minimum(taken, len(pool.places))]

    def forget(self, key: str, gone: Callable[[int], bool]) -> list[int]:
        """Forget a task, and of all others the places that are gone; returns what is free now."""
        free: list[int] = []
        for pool in self._pools.values():
            lost = {place for place in pool.places if gone(place)}
            if lost:
                left = array("i", [place for place in pool.places if place not in lost])
                pool.seen = round(pool.seen * len(left) / len(pool.places))
                pool.places = left
                free += sorted(lost)
        self._pools.pop(key, None)
        self._by_size = None
        self._free += free
        return free

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, the tasks in their order, which draws depend on."""
        pools = [[key, pool.seen, pool.places.tolist()] for key, pool in self._pools.items()]
        return {"pools": pools, "free": self._free, "used": self.used}

    def load(self, values: Mapping[str, Any]) -> None:
        """Restore what `to_json` returned; earlier releases wrote the pools as an object."""
        pools = values["pools"]
        if isinstance(pools, dict):
            pools = [[key, *facts] for key, facts in pools.items()]
        self._free, self.used, self._by_size = list(values["free"]), values["used"], None
        self._pools = {key: _Pool(age, array("i", places), seen) for age, (key, seen, places) in enumerate(pools)}
        self._ages = len(pools)

    def _new_place(self, pool: _Pool, chance: float) -> int | None:
        if self._free:
            return self._free.pop()
        if self.used < self._capacity:
            self.used += 1
            return self.used - 1
        key, largest = self._largest()
        if len(largest.places) <= len(pool.places) + 1:
            return None
        place = int(chance * len(largest.places))
        largest.places[place], largest.places[-1] = largest.places[-1], largest.places[place]
        given = largest.places.pop()
        self._resized(key, largest)
        return given

    def _largest(self) -> tuple[str, _Pool]:
        """Return the task with most places (ties: the oldest), without a look at all of them."""
        if self._by_size is None or len(self._by_size) > 64 + 4 * len(self._pools):
            self._by_size = [(-len(pool.places), pool.age, key) for key, pool in self._pools.items()]
            heapq.heapify(self._by_size)
        while True:
            size, age, key = self._by_size[0]
            pool = self._pools[key]
            if (-size, age) == (len(pool.places), pool.age):
                return key, pool
            heapq.heappop(self._by_size)

    def _resized(self, key: str, pool: _Pool) -> None:
        if self._by_size is not None:
            heapq.heappush(self._by_size, (-len(pool.places), pool.age, key))
