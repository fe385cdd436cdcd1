"""Changes of a store: each is prepared, journalled, and applied from its record.

A change and the record made of it hold the same numbers, so applying it now and replaying it later are
the same computation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, ClassVar, Self

from superposed.contexts import as_expression, flatten
from superposed.errors import SuperposedError
from superposed.store.store import WeightStore
from superposed_service.storage import Entry, Record

JsonObject = dict[str, Any]


def rejection(error: SuperposedError) -> JsonObject:
    """Return the answer of a change that is recorded and was not applied."""
    facts = {name: getattr(error, name) for name in ("message", "expected", "received")}
    return {"refused": {"error": error.code, **facts}}


def rejected(answer: JsonObject) -> JsonObject:
    """Return the answer of a change; raise the error of one that was rejected."""
    if (refused := answer.get("refused")) is not None:
        kind = SuperposedError.by_code[refused["error"]]
        raise kind(refused["message"], expected=refused["expected"], received=refused["received"])
    return answer


@dataclass(frozen=True)
class PreparedChange:
    """A change that was validated against a store. The store itself is as it was."""

    entry: Callable[[], Entry]  # makes the journal entry; called on the journal thread
    # Applies the change to the store, which adds 1 to its sequence number, and returns the response: JSON values.
    # Raises `UpdateError` where the arithmetic rejects the change; the store is then as it was, sequence number
    # included.
    apply: Callable[[WeightStore], JsonObject]
    task: str = ""  # key of the task that the change is about; empty where it is about none
    # Rows that teach each task; a composition counts for its largest-weight component
    rows_by_task: Mapping[str, int] = field(default_factory=dict)


class Change(ABC):
    """A request to change a store."""

    kind: ClassVar[str]  # stored name of its records
    author: str | None = None  # id of the API key that asks; None on a server without API keys
    # True if several such changes may be prepared before the first is applied, because none of them changes a task
    grouped: bool = False
    size: int = 1  # cost, relative to other changes

    def learn_schema(self, store: WeightStore) -> None:
        """Apply only what the change adds to the schemas of tasks."""
        del store

    @abstractmethod
    def prepare(self, store: WeightStore) -> PreparedChange | JsonObject:
        """Validate the change against the store; raise `SuperposedError` where it cannot be applied.

        Return the prepared change; or the response, where the store is already as asked and nothing is recorded.
        """

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record, whose head names the arguments of the change."""
        return cls(**{name: record.head[name] for name in signature(cls).parameters if name in record.head})


def signed(entry: Entry, author: str | None) -> Entry:
    """Return the entry with the id of the API key that asked for it."""
    return entry if author is None else Entry(entry.kind, {**entry.head, "author": author}, entry.payload)


def keys_of(head: Mapping[str, Any]) -> set[str]:
    """Return the task keys that a record's head names, those inside compositions too."""
    if "schema" in head:
        return {head["schema"]["key"]}
    if "key" in head:
        return {head["key"]}
    contexts = [head["context"]] if "context" in head else head.get("contexts", [])
    return {leaf.key for context in contexts for leaf in flatten(as_expression(context))}
