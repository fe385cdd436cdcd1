"""The journal's records as lines of `superposed log`, and the newest snapshot that can be read."""

from collections.abc import Mapping, Sequence

import typer

from superposed.errors import ConfigError, SuperposedError
from superposed.store.store import WeightStore
from superposed_service.changes.base import JsonObject, keys_of
from superposed_service.changes.exclusions import LASTING, Exclusions
from superposed_service.changes.quarantine import Quarantine, Release, sources_of
from superposed_service.changes.replay import read_store
from superposed_service.changes.update import Update
from superposed_service.storage import DataDirectory, Journal, Summary


def journal_lines(directory: DataDirectory, after: int, most: int) -> list[JsonObject]:
    """Return up to `most` records after a sequence number, each with its state."""
    journal = directory.transaction_log().journal
    exclusions = Exclusions.read(journal, journal.sequence)
    try:
        known = newest_snapshot(directory).tasks.quarantined
    except SuperposedError:  # none is readable
        known = {}
    held = _held(journal, exclusions, known)
    return [
        {
            "sequence": record.sequence,
            "kind": record.kind,
            "tasks": " ".join(sorted(keys_of(record.head))) or record.head.get("source", ""),
            "rows": record.head.get("rows", ""),
            "bytes": "erased" if record.payload_bytes is None else record.payload_bytes,
            "state": _state(record, exclusions, held),
            "author": record.head.get("author", ""),
        }
        for record in journal.summaries(after, most)
    ]


def newest_snapshot(directory: DataDirectory) -> WeightStore:
    """Return the store of the newest good snapshot."""
    for snapshot in reversed(directory.snapshots.list()):
        try:
            return read_store(directory.snapshots, snapshot, "cpu")
        except SuperposedError as error:  # an older one may be good
            typer.echo(str(error), err=True)
    raise ConfigError("no snapshot is good")


def _held(journal: Journal, exclusions: Exclusions, known: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return the quarantine periods of each source; `known` are those of the newest snapshot."""
    since = {source: start for source, start in known.items() if start <= journal.horizon}
    until: list[tuple[str, int, int]] = []
    named: set[str] = set()  # whose quarantine the journal knows of, be it rolled back
    for sequence, kind, head in journal.heads({Quarantine.kind, Release.kind}):
        source = head["source"]
        named |= {source} if kind == Quarantine.kind else set()
        if sequence in exclusions:
            continue
        if kind == Quarantine.kind:
            since.setdefault(source, sequence)
        elif source in since or source not in named:
            until.append((source, since.pop(source, journal.horizon), sequence))
    return until + [(source, start, journal.sequence + 1) for source, start in since.items()]


def _state(record: Summary, exclusions: Exclusions, held: Sequence[tuple[str, int, int]]) -> str:
    if record.sequence in exclusions and record.kind not in LASTING:
        return "not applied"
    sources = sources_of(record.head) if record.kind == Update.kind else set()
    back = any(source in sources and start < record.sequence < end for source, start, end in held)
    return "held" if back else "applied"
