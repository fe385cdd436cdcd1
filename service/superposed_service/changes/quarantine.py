"""Changes of the quarantine: hold a source, release it."""

from collections.abc import Mapping
from typing import Any, Self

from superposed.store.store import WeightStore
from superposed_service.changes.base import Change, JsonObject, PreparedChange, keys_of
from superposed_service.storage import Entry, Record

# Before an author's id, where a source may be a task key too.
AUTHOR = "key:"


class Quarantine(Change):
    """From here on a source's updates are recorded and not applied: a decision, which replay repeats.

    Args:
        source: A task key, or an author (see `sources_of`).
        reason: Who decided it and why: JSON values.
    """

    kind = "quarantine"

    def __init__(self, source: str, reason: JsonObject) -> None:
        self._source, self._reason = source, reason

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Accept any source; one that is in quarantine already stays there."""

        def apply(store: WeightStore) -> JsonObject:
            store.sequence += 1
            since = store.tasks.quarantined.setdefault(self._source, store.sequence)
            return {"source": self._source, "since": since}

        head = {"source": self._source, "reason": self._reason}
        return PreparedChange(lambda: Entry(self.kind, head), apply)

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record."""
        return cls(record.head["source"], record.head["reason"])


class Release(Change):
    """A source's updates are applied again from here on."""

    kind = "release"

    def __init__(self, source: str) -> None:
        self._source = source

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Accept any source; where there was no quarantine nothing changes."""

        def apply(store: WeightStore) -> JsonObject:
            store.sequence += 1
            store.tasks.quarantined.pop(self._source, None)
            return {"source": self._source}

        return PreparedChange(lambda: Entry(self.kind, {"source": self._source}), apply)

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record."""
        return cls(record.head["source"])


def sources_of(head: Mapping[str, Any]) -> set[str]:
    """Return the sources of an update: the task keys that it names, and its API key (`key:<id>`)."""
    author = head.get("author")
    return keys_of(head) | ({AUTHOR + author} if author is not None else set())
