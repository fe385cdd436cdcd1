"""`superposed status | promote | tasks | teach | predict | evaluate`: a running server, and files of rows for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from superposed_client import Client, Task

Url = Annotated[str, typer.Argument(metavar="URL", help="URL of the server; its API key is in SUPERPOSED_API_KEY.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Task key; `predict` takes any context.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="CSV, Parquet or JSON lines (.jsonl); - for CSV on stdin.")]
Target = Annotated[str | None, typer.Option(help="Column of the targets; default: the last one.")]
Text = Annotated[str | None, typer.Option(help="Column of texts, for a task of texts.")]


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """Connect to a server; what it refuses is one line and exit code 1."""
    from superposed_client import Client, SuperposedError

    try:
        with Client(url) as client:
            yield client
    except BrokenPipeError:  # who read it has enough
        raise
    except (SuperposedError, OSError, ValueError) as error:
        Console(stderr=True).print(f"superposed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def status(url: Url) -> None:
    """Show the role of the server at URL, how new its store is, and what it holds."""
    with connected(url) as client:
        store, server = client.store(), client.server_state()
        size = (store.bytes.weights + store.bytes.optimizer + store.bytes.kept_rows) / 2**20
        typer.echo(f"{server.role} of epoch {server.epoch}{', ready' if client.ready() else ', not ready'}")
        typer.echo(f"record {store.sequence}, tasks: {store.tasks}, {size:.1f} MB, {store.family} contexts")


def promote(
    url: Annotated[str, typer.Argument(metavar="URL", help="URL of the server that is to lead.")],
    allow_loss: Annotated[bool, typer.Option(help="Promote although acknowledged changes may be lost.")] = False,
) -> None:
    """Make the server at URL the leader, or the one with the newest records where the old leader is not reached.

    The API key, of scope replicate, comes from SUPERPOSED_API_KEY.
    """
    with connected(url) as client:
        done = client.promote(allow_loss=allow_loss)
    led = f"epoch {done.epoch}, from record {done.sequence + 1} on"
    typer.echo(f"{done.leader or url} leads {led}; {done.promised} servers have promised it")


def tasks(url: Url, prefix: Annotated[str, typer.Argument(help="Beginning of the task keys, or GROUP/.")] = "") -> None:
    """List the tasks of the server at URL. The accuracy is that of rows before they were learned."""
    columns = ["kind", "inputs", "labels", "updates", "rows", "accuracy before learning"]
    table = Table(Column("task", overflow="fold"), *columns)
    group, _, beginning = prefix.rpartition("/")
    with connected(url) as client:
        found = [one for one in client.list_tasks(beginning) if group in {"", one.group}]
        for one in sorted(found, key=lambda own: (own.group or own.key, own.group or "", own.key)):
            labels = "" if one.loss == "mse" else one.outputs if one.labels is None else len(one.labels)
            inputs = len(one.features or ()) or one.inputs
            accuracy = "" if one.prequential.accuracy is None else f"{one.prequential.accuracy:.3f}"
            name = one.key if one.group is None else f"{one.group}/{one.key}"
            table.add_row(name, one.kind, *map(str, (inputs, labels, one.updates, one.rows_seen)), accuracy)
    Console().print(table)


def teach(
    url: Url,
    key: Key,
    file: File,
    target: Target = None,
    text: Text = None,
    loss: Annotated[Literal["cross_entropy", "mse"], typer.Option(help="Labels, or mse for values.")] = "cross_entropy",
    epochs: Annotated[int, typer.Option(help="Passes over the rows.", min=1)] = 1,
    batch_size: Annotated[int, typer.Option(help="Rows of one update.", min=1)] = 32,
) -> None:
    """Teach the rows of FILE to a task of the server at URL; the task is registered if there is none."""
    with connected(url) as client:
        rows, targets, column = _rows(_frame(file), target, text)
        task = client.task(key, loss=loss, **({"outputs": 1} if loss == "mse" else {"grow_labels": True}))
        new = "the new task " if _features(task, rows) is None else ""
        task.fit(rows, targets, epochs=epochs, batch_size=batch_size, progress=sys.stderr.isatty())
        typer.echo(f"{len(targets)} rows taught to {new}{key}; target: {column}; epochs: {epochs}")


def predict(
    url: Url,
    key: Key,
    file: File,
    text: Text = None,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; - for CSV on stdout.")] = "-",
) -> None:
    """Predict the rows of FILE by a task or composition of the server at URL; they are written with `prediction`.

    Columns that a task of records does not have, such as its targets, are not sent.
    """
    with connected(url) as client:
        frame, task = _frame(file), client.task(key)
        rows = _inputs(frame.drop(columns="prediction", errors="ignore"), text)
        if (names := _features(task, rows)) and not text:
            rows = rows[[name for name in rows.columns if name in names]]
        _write(frame.assign(prediction=task.predict(rows)), output)


def evaluate(url: Url, key: Key, file: File, target: Target = None, text: Text = None) -> None:
    """Measure the accuracy (of values: R²) of a task on the rows of FILE; nothing is learned."""
    with connected(url) as client:
        rows, targets, _ = _rows(_frame(file), target, text)
        task = client.task(key)
        _features(task, rows)
        typer.echo(f"{task.score(rows, targets):.4f}")


def _frame(file: str) -> pd.DataFrame:
    """Return the rows of a file, its columns by their names as text."""
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise ValueError("files of rows need pandas: pip install 'superposed[data]'") from None
    if file.endswith((".parquet", ".pq")):
        return pd.read_parquet(file).rename(columns=str)
    if file.endswith((".jsonl", ".ndjson")):
        return pd.read_json(file, lines=True).rename(columns=str)
    return pd.read_csv(sys.stdin if file == "-" else file)


def _rows(frame: pd.DataFrame, target: str | None, text: str | None) -> tuple[Any, Any, str]:
    """Return inputs, targets, and the name of the targets' column: the last one, unless it is given."""
    name = str(frame.columns[-1] if target is None else target)
    targets = _column(frame, name)
    return _inputs(frame.drop(columns=name), text), targets, name


def _inputs(frame: pd.DataFrame, text: str | None) -> Any:
    return frame if text is None else _column(frame, text)


def _features(task: Task, rows: Any) -> list[str] | None:
    """Return the names of a task's features, none but of records; None where there is no task, or it is composed.

    Those that have no column in a frame of rows are named on stderr.
    """
    from superposed_client import ExpressionInvalid, UnknownTask

    try:
        names = [feature["name"] for feature in task.info().features or ()]
    except (ExpressionInvalid, UnknownTask):
        return None
    if missing := [name for name in names if name not in getattr(rows, "columns", names)]:
        typer.echo(f"superposed: no column {', '.join(missing)}: taken as missing values", err=True)
    return names


def _column(frame: pd.DataFrame, name: str) -> list[Any]:
    if name not in frame:
        raise ValueError(f"no column {name!r}: expected one of {', '.join(map(str, frame.columns))}")
    return list(frame[name].tolist())


def _write(frame: pd.DataFrame, file: str) -> None:
    if file.endswith((".parquet", ".pq")):
        frame.to_parquet(file)
    elif file.endswith((".jsonl", ".ndjson")):
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(sys.stdout if file == "-" else file, index=False)
