"""Cost of metrics: processor time of a one-row inference with them and without, in one server under load.

    python -m benchmarks.telemetry --results docs/results/benchmarks/telemetry.json

Both are switched every fifth of a second, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn

from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed.store.store import WeightStore
from superposed_client import AsyncClient, Client
from superposed_service.api.app import create_app
from superposed_service.api.middleware.gateway import RequestGateway
from superposed_service.api.middleware.request_metrics import Observed
from superposed_service.api.middleware.route_table import ROUTE
from superposed_service.changes.snapshot import begin
from superposed_service.engine.telemetry import RequestTiming, Telemetry
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

CONNECTIONS, SLICE_S = 16, 0.2
_COUNTED = (Observed.__call__, Telemetry.start_timing, Telemetry.answered)
_PASSED_ON = RequestGateway.__call__
_NOBODY = RequestTiming(0.0, "", None)
served = 0


async def _pass_on(self: Observed, scope: Any, *channels: Any) -> None:
    scope[ROUTE] = self._routes.match(scope)  # what comes after needs it
    await self._app(scope, *channels)


async def _count(self: RequestGateway, *request: Any) -> None:
    global served
    served += 1
    await _PASSED_ON(self, *request)


def switch(on: bool) -> None:
    nothing = (_pass_on, lambda _: _NOBODY, lambda *_: None)
    Observed.__call__, Telemetry.start_timing, Telemetry.answered = _COUNTED if on else nothing  # type: ignore[method-assign,assignment]  # measured in place


def one_slice(on: bool) -> float | None:
    """Processor time a request, in microseconds; None where there was none."""
    switch(on)
    before, started = served, time.process_time()
    time.sleep(SLICE_S)
    used, requests = time.process_time() - started, served - before
    return used / requests * 1e6 if requests else None


def measure(seconds: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"without_us": [], "with_us": []}
    until, first = time.monotonic() + seconds, True
    while time.monotonic() < until:
        pair = {on: one_slice(on) for on in (first, not first)}
        first = not first
        if pair[True] is not None and pair[False] is not None:
            found["with_us"].append(pair[True])
            found["without_us"].append(pair[False])
    return found


def load(url: str, seconds: float) -> None:
    """Ask for one row of ten tasks in turn, over several connections, as long as that takes."""

    row = np.zeros((1, 784), dtype=np.float32)

    async def connection(number: int) -> None:
        async with AsyncClient(url) as client:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await client.infer(f"t{number % 10}", row, fields=("labels",))
                number += 1

    async def connections() -> None:
        await asyncio.gather(*(connection(number) for number in range(CONNECTIONS)))

    with Client(url) as client:
        for number in range(10):
            client.register_task(f"t{number}", outputs=2)
    asyncio.run(connections())


def run(seconds: float) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    RequestGateway.__call__ = _count  # type: ignore[method-assign]  # measured in place
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as folder,
        DataDirectory(Path(folder) / "store") as directory,
    ):
        begin(directory, WeightStore(plain_config()))
        app = create_app(Settings(threads=1), directory)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        client = multiprocessing.get_context("spawn").Process(target=load, args=(url, seconds + 10))
        client.start()
        try:
            while served < 1000:  # tasks are registered, and the load has begun
                assert client.is_alive(), "the load ended early"
                time.sleep(0.1)
            return measure(seconds)
        finally:
            switch(on=True)
            client.join()
            server.should_exit = True
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    found = run(options.seconds)
    ratios = [on / off for on, off in zip(found["with_us"], found["without_us"], strict=True)]
    result = {
        "config": {"connections": CONNECTIONS, "slice_s": SLICE_S, "seconds": options.seconds, "rows": 1},
        "machine": machine(),
        "pairs": len(ratios),
        "without_us": statistics.median(found["without_us"]),
        "with_us": statistics.median(found["with_us"]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4),
    }
    print(json.dumps(result, indent=1))
    write_json(options.results, result)


if __name__ == "__main__":
    main()
