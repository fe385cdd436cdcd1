"""`superposed verify | log | export | import`: a data directory that no server is using."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from superposed.errors import ConfigError, SuperposedError
from superposed.store import tensorfile
from superposed.store.store import WeightStore
from superposed_service.changes.base import keys_of
from superposed_service.changes.exclusions import LASTING, Exclusions
from superposed_service.changes.quarantine import Quarantine, Release, sources_of
from superposed_service.changes.replay import read_store, recover, use_noted_threads
from superposed_service.changes.snapshot import begin
from superposed_service.changes.update import Update
from superposed_service.changes.verify import verify
from superposed_service.cli.init import Directory
from superposed_service.errors import SnapshotMismatch
from superposed_service.storage import DataDirectory, Journal, Summary

_SHOWN = 50
_COLUMNS = ("sequence", "kind", "tasks", "rows", "bytes", "state", "author")
File = Annotated[Path, typer.Argument(metavar="FILE", help="File with one store.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("verify")(verify_directory)
    app.command("log")(log)
    app.command("export")(export)
    app.command("import")(import_store)


def verify_directory(directory: Directory) -> None:
    """Check DIR: every snapshot, every record, and that they recover; exit code 1 if anything is wrong."""
    with DataDirectory.existing(directory) as opened:
        findings = verify(opened)
    for finding in findings:
        mark = "ok   " if finding.remedy is None else "WRONG"
        typer.echo(f"{mark} {finding.subject}: {finding.detail}")
        if finding.remedy is not None:
            typer.echo(f"      what can be done: {finding.remedy.replace('DIR', str(directory))}")
    if any(finding.remedy is not None for finding in findings):
        raise typer.Exit(1)


def log(
    directory: Directory,
    after: Annotated[int, typer.Option(help="List only records after this sequence number.")] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Number of records; 0 for all. Default: 50, with --json all.", min=0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """List the journal's records in DIR."""
    with DataDirectory.existing(directory) as opened:
        journal = opened.transaction_log().journal
        exclusions = Exclusions.read(journal, journal.sequence)
        most = (0 if as_json else _SHOWN) if limit is None else limit
        records = journal.summaries(max(after, journal.horizon), most or journal.sequence)
        held = _held(journal, exclusions, _quarantined(opened))
        lines = [_line(record, exclusions, held) for record in records]
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
        return
    table = Table(*_COLUMNS)
    for line in lines:
        table.add_row(*(str(line[name]) for name in _COLUMNS))
    Console().print(table)
    last = records[-1].sequence if records else journal.sequence
    if last < journal.sequence:
        typer.echo(f"{journal.sequence - last} more: --after {last}")


def _quarantined(directory: DataDirectory) -> dict[str, int]:
    """Return the sources in quarantine at the newest readable snapshot; empty without one."""
    try:
        return _newest_snapshot(directory).tasks.quarantined
    except SuperposedError:
        return {}


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


def _line(record: Summary, exclusions: Exclusions, held: Sequence[tuple[str, int, int]]) -> dict[str, object]:
    return {
        "sequence": record.sequence,
        "kind": record.kind,
        "tasks": " ".join(sorted(keys_of(record.head))) or record.head.get("source", ""),
        "rows": record.head.get("rows", ""),
        "bytes": "erased" if record.payload_bytes is None else record.payload_bytes,
        "state": _state(record, exclusions, held),
        "author": record.head.get("author", ""),
    }


def export(
    directory: Directory,
    file: File,
    sequence: Annotated[
        int | None, typer.Option(help="Sequence number of the state to export; default: the newest.")
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Export the newest good snapshot without reading the journal.")
    ] = False,
) -> None:
    """Write the store of DIR to one FILE, which `superposed import` reads on any machine.

    The file holds the store's secret, as the directory does.
    """
    with DataDirectory.existing(directory) as opened:
        if snapshot:
            store = _newest_snapshot(opened)
        else:
            transaction_log = opened.transaction_log()
            _check_sequence(sequence, transaction_log.journal)
            use_noted_threads(transaction_log.journal)
            through = transaction_log.journal.sequence if sequence is None else sequence
            store, _ = recover(opened.snapshots, transaction_log, "cpu", through=through)
    tensorfile.write(file, store.to_bytes())
    typer.echo(f"{file}: {len(store.tasks)} tasks after record {store.sequence}")


def _check_sequence(sequence: int | None, journal: Journal) -> None:
    if sequence is not None and not journal.horizon <= sequence <= journal.sequence:
        raise ConfigError(
            "--sequence: the journal has no such record",
            expected=f"{journal.horizon} to {journal.sequence}",
            received=sequence,
        )


def _newest_snapshot(directory: DataDirectory) -> WeightStore:
    for snapshot in reversed(directory.snapshots.list()):
        try:
            return read_store(directory.snapshots, snapshot, "cpu")
        except SnapshotMismatch as error:
            typer.echo(str(error), err=True)
    raise ConfigError("no snapshot is good")


def import_store(directory: Directory, file: File) -> None:
    """Make DIR, which must be empty, the home of the store in FILE; its journal begins there."""
    try:
        store = WeightStore.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {file}", received=str(error)) from error
    with DataDirectory(directory) as opened:
        begin(opened, store)
    typer.echo(f"{directory}: {len(store.tasks)} tasks after record {store.sequence}")
    typer.echo(
        "It has no API keys, journal or kept answers: those stayed where the file is from. "
        "Make keys before you serve it to others than yourself: superposed keys create."
    )
