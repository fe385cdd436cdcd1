"""Changes of the quarantine: hold a source, release it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from superposed.store.store import WeightStore
from superposed_service.changes.base import Change, JsonObject, PreparedChange, keys_of
from superposed_service.storage import Entry

# Before an author's id, where a source may be a task key too.
AUTHOR = "key:"


@dataclass(eq=False)
class Quarantine(Change):
    """From here on a source's updates are recorded and not applied: a decision, which replay repeats."""

    kind = "quarantine"

    source: str  # a task key, or an author (see `sources_of`)
    reason: JsonObject  # who decided it and why: JSON values

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Accept any source; one that is in quarantine already stays there."""

        def apply(store: WeightStore) -> JsonObject:
            store.sequence += 1
            return {"source": self.source, "since": store.tasks.quarantined.setdefault(self.source, store.sequence)}

        return PreparedChange(lambda: Entry(self.kind, {"source": self.source, "reason": self.reason}), apply)


@dataclass(eq=False)
class Release(Change):
    """A source's updates are applied again from here on."""

    kind = "release"

    source: str

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Accept any source; where there was no quarantine nothing changes."""

        def apply(store: WeightStore) -> JsonObject:
            store.sequence += 1
            store.tasks.quarantined.pop(self.source, None)
            return {"source": self.source}

        return PreparedChange(lambda: Entry(self.kind, {"source": self.source}), apply)


def sources_of(head: Mapping[str, Any]) -> set[str]:
    """Return the sources of an update: the task keys that it names, and its API key (`key:<id>`)."""
    author = head.get("author")
    return keys_of(head) | ({AUTHOR + author} if author is not None else set())
