"""`superposed verify | log | export | import`: a data directory that no server is using."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from superposed.errors import ConfigError
from superposed_service.cli.arguments import Directory, File

_SHOWN = 50
_COLUMNS = ("sequence", "kind", "tasks", "rows", "bytes", "state", "author")


def verify_directory(directory: Directory) -> None:
    """Check DIR: every snapshot, every record, and that they recover; exit code 1 if anything is wrong."""
    from superposed_service.changes.verify import verify
    from superposed_service.storage import DataDirectory

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
    limit: Annotated[int | None, typer.Option(help="Records at most; 0: all. Default: 50; --json: all.", min=0)] = None,
    tail: Annotated[int, typer.Option(help="Number of newest records to list; 0: all after --after.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """List the journal's records in DIR."""
    from superposed_service.cli.journal_lines import journal_lines
    from superposed_service.storage import DataDirectory

    with DataDirectory.existing(directory) as opened:
        journal = opened.transaction_log().journal
        most = (0 if as_json else _SHOWN) if limit is None else limit
        first = max(after, journal.horizon, journal.sequence - tail if tail else 0)
        lines = journal_lines(opened, first, tail or most or journal.sequence)
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
        return
    table = Table(*_COLUMNS)
    for line in lines:
        table.add_row(*(str(line[name]) for name in _COLUMNS))
    Console().print(table)
    last = lines[-1]["sequence"] if lines else journal.sequence
    if last < journal.sequence:
        typer.echo(f"{journal.sequence - last} more: --after {last}")


def export(
    directory: Directory,
    file: File,
    sequence: Annotated[int | None, typer.Option(help="Sequence number of the state; default: the newest.")] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="The newest good snapshot, without the journal.")
    ] = False,
    task: Annotated[str, typer.Option("--hub-layout", help="Write this task's model for the Hugging Face Hub.")] = "",
) -> None:
    """Write the store of DIR to one FILE, which `superposed import` reads on any machine.

    The file holds the store's secret, as the directory does. With --hub-layout FILE is a new folder, and gets one
    task's model with a model card, and no secret.
    """
    from superposed.store import tensorfile
    from superposed_service.changes.replay import recover, use_noted_threads
    from superposed_service.cli.journal_lines import newest_snapshot
    from superposed_service.errors import disk_errors
    from superposed_service.storage import DataDirectory

    if snapshot and sequence is not None:
        raise ConfigError("--snapshot exports the newest good snapshot", expected="--sequence or --snapshot, not both")
    with DataDirectory.existing(directory) as opened:
        if snapshot:
            store = newest_snapshot(opened)
        else:
            transaction_log = opened.transaction_log()
            journal = transaction_log.journal
            through = journal.sequence if sequence is None else sequence
            if not journal.horizon <= through <= journal.sequence:
                reach = f"{journal.horizon} to {journal.sequence}"
                raise ConfigError("--sequence: the journal has no such record", expected=reach, received=through)
            use_noted_threads(journal)
            store, _ = recover(opened.snapshots, transaction_log, "cpu", through=through)
    with disk_errors(f"cannot write {file}"):
        if task:
            from superposed_service.cli.hub_layout import write_hub_layout

            write_hub_layout(store, task, file)
            typer.echo(f"{file}: README.md, config.json, model.onnx, model.safetensors")
        else:
            tensorfile.write(file, store.to_bytes())
            typer.echo(f"{file}: {len(store.tasks)} tasks after record {store.sequence}")


def import_store(directory: Directory, file: File) -> None:
    """Make DIR, which must be empty, the home of the store in FILE; its journal begins there."""
    from superposed.store.store import WeightStore
    from superposed_service.changes.snapshot import begin
    from superposed_service.storage import DataDirectory

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
