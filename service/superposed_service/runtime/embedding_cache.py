"""The embedding cache: rows of texts and images that were encoded before, bounded in bytes."""

import hashlib
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Of an entry: its key, its place in two tables, and the array's own.
_ENTRY_BYTES = 700


class CacheKey(NamedTuple):
    """The key of an embedding: encoder, API key, task (empty where it is to be found), digest of the item.

    Each API key and task has entries of its own: the time of an answer tells nothing of what others asked.
    """

    encoder: str
    source: str
    task: str
    digest: bytes


def key_of(encoder: str, source: str, task: str, item: str | bytes) -> CacheKey:
    """Return the key of a text or an image."""
    data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
    return CacheKey(encoder, source, task, hashlib.blake2b(data, digest_size=16).digest())


class EmbeddingCache:
    """Embeddings of `most_bytes` in all, the ones used longest ago leave first; 0 keeps none. One thread."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._rows: OrderedDict[CacheKey, NDArray[Any]] = OrderedDict()
        self._of_task: dict[str, set[CacheKey]] = {}
        self.bytes = self.erasures = 0

    def get(self, key: CacheKey) -> NDArray[Any] | None:
        """Return an embedding (width,), or None."""
        found = self._rows.get(key)
        if found is not None:
            self._rows.move_to_end(key)
        return found

    def put(self, key: CacheKey, row: NDArray[Any]) -> None:
        """Keep an embedding (width,)."""
        size = row.nbytes + _ENTRY_BYTES
        if key in self._rows or size > self._most_bytes:
            return
        self._rows[key] = np.array(row)  # its own memory: a view would keep the whole batch
        self._of_task.setdefault(key.task, set()).add(key)
        self.bytes += size
        while self.bytes > self._most_bytes:
            self._drop(next(iter(self._rows)))

    def forget(self, task: str) -> None:
        """Drop every embedding that was made for a task, and what is being made now."""
        self.erasures += 1
        for key in list(self._of_task.get(task, ())):
            self._drop(key)

    def _drop(self, key: CacheKey) -> None:
        self.bytes -= self._rows.pop(key).nbytes + _ENTRY_BYTES
        left = self._of_task[key.task]
        left.discard(key)
        if not left:
            del self._of_task[key.task]
