"""API keys on the disk: never the keys themselves, only what tells a right one from a wrong one."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal

from superposed_service.errors import JournalCorrupt, UnknownApiKey
from superposed_service.storage.database import Database

AccessScope = Literal["monitor", "infer", "update", "replicate", "admin"]


@dataclass(frozen=True)
class ApiKey:
    """An API key, without its secret."""

    id: str  # its public part: what logs and records call it by
    name: str  # free text
    # What it may do: read metrics (`monitor`), `infer`, also `update`; follow this server (`replicate`); or
    # everything (`admin`)
    scope: AccessScope
    tasks: str  # a pattern of task keys (`*` and `?`) that it may name
    secret_sha256: str  # of its secret part, hexadecimal
    created: float  # Unix seconds
    since: int  # the journal's sequence number when it was made: all its records are later
    expires: float | None = None  # Unix seconds; None for never
    revoked: float | None = None  # Unix seconds; None while it is good
    # Its own quotas, rows counted of whatever kind of request: None for the server's, 0 for none
    requests_per_second: float | None = None
    rows_per_second: float | None = None
    updates_per_second: float | None = None
    groups: str = ""  # a pattern of groups that its tasks may join, beside those that `tasks` matches

    def is_good(self, now: float) -> bool:
        """Return True if it was neither revoked nor has expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)


_FIELDS = {field.name for field in fields(ApiKey)}


class ApiKeys:
    """The API keys of one database: one thread writes, any reads. Raise `JournalCorrupt` for a row that is damaged."""

    def __init__(self, database: Database) -> None:
        self._database = database
        found: dict[str, ApiKey] = {}
        for identifier, text, checksum in database.query("SELECT id, value, checksum FROM api_keys"):
            if _checksum(identifier, text) != checksum:
                raise JournalCorrupt("an API key is not what was written", received=identifier)
            values = json.loads(text)
            found[identifier] = ApiKey(**{name: values[name] for name in _FIELDS & values.keys()})
        self._keys: Mapping[str, ApiKey] = found
        self.digest = self._digest()  # of all keys, hexadecimal
        self.good_until = math.inf  # clock time (`time.monotonic`) from when on keys may have been revoked elsewhere

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, identifier: str) -> ApiKey | None:
        """Return the key of that id."""
        return self._keys.get(identifier)

    def find(self, identifier: str) -> ApiKey:
        """Return the key of that id; raise `UnknownApiKey` where there is none."""
        if (key := self._keys.get(identifier)) is None:
            raise UnknownApiKey("no API key has this id", received=identifier)
        return key

    def all(self) -> list[ApiKey]:
        """Return every key, the revoked ones too, in the order in which they were made."""
        return sorted(self._keys.values(), key=lambda key: (key.created, key.id))

    def put(self, key: ApiKey) -> None:
        """Add a key, or replace the one of its id. When it returns, it is on the disk."""
        text = json.dumps(asdict(key), sort_keys=True)
        row = (key.id, text, _checksum(key.id, text))
        self._database.write(("INSERT OR REPLACE INTO api_keys VALUES (?, ?, ?)", row))
        self._keys = {**self._keys, key.id: key}  # replaced whole: other threads read it
        self.digest = self._digest()

    def _digest(self) -> str:
        return hashlib.sha256(repr([asdict(key) for key in self.all()]).encode()).hexdigest()


def _checksum(identifier: str, text: str) -> bytes:
    return hashlib.sha256(f"{identifier}\n{text}".encode()).digest()[:16]
