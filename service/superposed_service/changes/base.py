"""What changes a store: each change is checked, journalled, and applied from what was journalled.

A change and the record made of it hold the same numbers, so applying it now and replaying it later are
the same computation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from superposed.contexts import as_expression, flatten
from superposed.errors import SuperposedError
from superposed.store.store import WeightStore
from superposed_service.storage import Entry

__all__ = ["Change", "JsonObject", "keys_of", "refusal"]

JsonObject = dict[str, Any]


def refusal(error: SuperposedError) -> JsonObject:
    """The answer of a change that is recorded and was not applied."""
    return {
        "refused": {
            "error": type(error).__name__,
            "message": error.message,
            "expected": error.expected,
            "received": error.received,
        }
    }


class Change(ABC):
    """One change of a store. In this order: `check`, `entry`, and once that is on the disk, `apply`."""

    kind: ClassVar[str]
    # Who asked for it: an API key's id, where there are any.
    author: str | None = None
    # Whether several of it may be checked before the first is applied: it leaves the tasks as they are.
    grouped: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """What it costs, against other changes."""
        return 1

    @property
    def task(self) -> str:
        """The key of the task that a checked change is about; empty where it is about none."""
        return ""

    @abstractmethod
    def check(self, store: WeightStore) -> JsonObject | None:
        """Checks the change against the store; changes nothing.

        Returns:
            The answer, where the store is already as asked and nothing is to be recorded.

        Raises:
            SuperposedError: It cannot be applied.
        """

    @property
    def rows_by_task(self) -> Mapping[str, int]:
        """How many rows a checked change teaches which task; a composition's count for its heaviest part."""
        return {}

    @abstractmethod
    def entry(self) -> Entry:
        """What the journal keeps of it."""

    def signed_entry(self) -> Entry:
        """The entry, with who asked for it."""
        entry = self.entry()
        if self.author is None:
            return entry
        return Entry(entry.kind, {**entry.head, "author": self.author}, entry.payload)

    @abstractmethod
    def apply(self, store: WeightStore) -> JsonObject:
        """Applies the checked change: the store's sequence number goes up by one.

        Returns:
            The answer: JSON values.

        Raises:
            UpdateError: The arithmetic refuses it; the store is as it was, sequence number included.
        """


def keys_of(head: Mapping[str, Any]) -> set[str]:
    """The task keys that a record's head names, those inside compositions too."""
    if "schema" in head:
        return {head["schema"]["key"]}
    if "key" in head:
        return {head["key"]}
    contexts = [head["context"]] if "context" in head else head.get("contexts", [])
    return {leaf.key for context in contexts for leaf in flatten(as_expression(context))}
