"""`superposed bench URL`: a closed loop of inference requests through the SDK, and their latencies."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from superposed_client import AsyncClient, Client, RetryPolicy
from superposed_client import SuperposedError as ClientError

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def bench(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="URL of a running server.")
    ] = "http://127.0.0.1:8000",
    connections: Annotated[int, typer.Option(help="Number of connections.", min=1, max=4096)] = 8,
    seconds: Annotated[float, typer.Option(help="Duration of the load.", min=0.1)] = 10.0,
    tasks: Annotated[int, typer.Option(help="Number of tasks that requests name in turn.", min=1)] = 100,
    rows: Annotated[int, typer.Option(help="Rows of one request.", min=1)] = 1,
    output: Annotated[Path | None, typer.Option("--json", help="File for the results as JSON.")] = None,
) -> None:
    """Send inference requests to a running server, for tasks of its own that it deletes again.

    The SDK's own time is part of the latencies. `SUPERPOSED_API_KEY` is sent where it is set.
    """
    names = [f"bench-{secrets.token_hex(4)}-{number}" for number in range(tasks)]
    made: list[str] = []
    with Client(url) as client:
        features = int(client.store().network["inputs"])
        try:
            for name in names:
                client.register_task(name, outputs=2, keep_rows=False)
                made.append(name)
            values = asyncio.run(_measure(url, names, (rows, features), connections, seconds))
        finally:
            for name in made:
                client.delete_task(name)
    _show(values)
    if output is not None:
        output.write_text(json.dumps(values, indent=1) + "\n")


async def _measure(
    url: str, names: list[str], shape: tuple[int, int], connections: int, seconds: float
) -> dict[str, Any]:
    latencies: list[float] = []
    failures: Counter[str] = Counter()
    rows = np.random.default_rng(0).random(shape, dtype=np.float32)
    started = time.perf_counter()

    async def connection(place: int) -> None:
        async with AsyncClient(url, retries=RetryPolicy(retries=0)) as client:
            while (sent := time.perf_counter()) < started + seconds:
                try:
                    await client.infer(names[place % len(names)], rows, fields=("labels",))
                    latencies.append(1000 * (time.perf_counter() - sent))
                except ClientError as error:
                    failures[type(error).__name__] += 1
                place += connections

    await asyncio.gather(*(connection(place) for place in range(connections)))
    taken = time.perf_counter() - started
    return {
        "connections": connections,
        "rows_a_request": shape[0],
        "seconds": taken,
        "requests": len(latencies),
        "requests_per_s": len(latencies) / taken,
        "latency_ms": {f"p{one:g}": float(np.percentile(latencies or [0.0], one)) for one in _PERCENTILES},
        "failures": dict(failures),
    }


def _show(values: dict[str, Any]) -> None:
    table = Table(title=f"inference, {values['connections']} connections, {values['rows_a_request']} rows")
    for name in ("requests/s", *(f"{name} ms" for name in values["latency_ms"]), "failures"):
        table.add_column(name, justify="right")
    latencies = [f"{milliseconds:.2f}" for milliseconds in values["latency_ms"].values()]
    failed = ", ".join(f"{count} x {name}" for name, count in values["failures"].items()) or "none"
    table.add_row(f"{values['requests_per_s']:,.0f}", *latencies, failed)
    Console().print(table)
