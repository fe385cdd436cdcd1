"""`superposed bench URL`."""

from __future__ import annotations

import json
import os
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from superposed.errors import ConfigError
from superposed_client import Client
from superposed_service.cli.bench import Load, as_json, run, show

__all__ = ["bench"]


class _Keys(StrEnum):
    uniform = "uniform"
    zipf = "zipf"


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="A running server.")] = "http://127.0.0.1:8000",
    connections: Annotated[int, typer.Option(help="Connections at once.", min=1, max=4096)] = 8,
    seconds: Annotated[float, typer.Option(help="How long.", min=0.1)] = 10.0,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests a second (open loop); default: as fast as they are answered."),
    ] = None,
    tasks: Annotated[int, typer.Option(help="How many tasks the requests are for.", min=1)] = 100,
    keys: Annotated[_Keys, typer.Option(help="How requests are spread over the tasks.")] = _Keys.uniform,
    rows: Annotated[int, typer.Option(help="Rows of one request.", min=1)] = 1,
    update: Annotated[
        bool, typer.Option("--update", help="Teach noise instead of asking: it moves the shared weights.")
    ] = False,
    as_text: Annotated[
        bool, typer.Option("--json-bodies", help="JSON bodies; default: binary tensors.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Writes the figures to a file too.")] = None,
) -> None:
    """Send a load to a running server, for tasks of its own that it deletes again."""
    if rate is not None and rate <= 0:
        raise ConfigError("--rate: requests a second", expected="more than 0", received=rate)
    where = urlsplit(url)
    if where.scheme != "http" or where.path not in {"", "/"}:
        raise ConfigError(
            "the load is sent over plain HTTP: beside the server, not through what stands in front of it",
            expected="http://host:port",
            received=url,
        )
    api_key = os.environ.get("SUPERPOSED_API_KEY")
    prefix = f"bench-{secrets.token_hex(4)}"
    with Client(url) as client:
        features = int(client.store().network["inputs"])
        names = [f"{prefix}-{number}" for number in range(tasks)]
        made: list[str] = []
        try:
            for name in names:
                client.register_task(name, outputs=2, keep_rows=False)
                made.append(name)
            load = Load(
                url=url,
                tasks=[(name, features) for name in names],
                keys=keys.value,
                kind="update" if update else "infer",
                rows=rows,
                binary=not as_text,
                connections=connections,
                rate=rate,
                seconds=seconds,
                api_key=api_key,
            )
            outcome = run(load)
        finally:
            for name in made:
                client.delete_task(name)
    show(load, outcome, Console())
    if output is not None:
        output.write_text(json.dumps(as_json(load, outcome), indent=1) + "\n")
