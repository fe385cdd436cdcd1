"""API processes in front of one engine process: a trial of it, beside the service as it is.

    python -m benchmarks.process_split --results docs/results/benchmarks/process_split.json

Each API process is a bare uvicorn application that parses a one-row JSON request, hands its row over a Unix
socket, with all others that wait, to the engine process, and writes the label that comes back. The engine
answers what all of them handed over in one mixed batch. No keys, quotas, deadlines or metrics: what a split
could reach at most. Driven by `wrk` with 64 connections, in turns, on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import struct
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import torch
import uvicorn

from benchmarks import serving
from demo.server_process import free_port
from experiments.report import machine, write_json
from superposed_service.changes.rows import RowBatch
from superposed_service.engine.batcher import InferenceResult, answer_rows

CONNECTIONS, HEAD = 64, struct.Struct("<I")
ROW = 4 + 4 * serving.INPUTS  # the task's number, then its row


async def _take(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(HEAD.unpack(await reader.readexactly(HEAD.size))[0])


def engine(path: str) -> None:
    """Answer rows: a message of rows in, a message of as many labels out."""
    torch.set_num_threads(1)
    store = serving.new_store()
    store.prepare()
    waiting: list[tuple[asyncio.StreamWriter, bytes]] = []

    def answer() -> None:
        several, waiting[:] = list(waiting), []
        rows = [message[place : place + ROW] for _, message in several for place in range(0, len(message), ROW)]
        inputs = [np.frombuffer(row, "<f4", offset=4)[None] for row in rows]
        keys = [f"t{int.from_bytes(row[:4], 'little')}" for row in rows]
        found = answer_rows(store, [RowBatch(key, None, one) for key, one in zip(keys, inputs, strict=True)])
        labels = bytes(int(one.logits.argmax()) for one in found if isinstance(one, InferenceResult))
        for writer, message in several:
            count = len(message) // ROW
            writer.write(HEAD.pack(count) + labels[:count])
            labels = labels[count:]

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            message = await _take(reader)
            if not waiting:
                asyncio.get_running_loop().call_soon(answer)
            waiting.append((writer, message))

    async def main() -> None:
        async with await asyncio.start_unix_server(connected, path, limit=2**24) as server:
            await server.serve_forever()

    asyncio.run(main())


class Handler:
    """The application of an API process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: list[tuple[bytes, asyncio.Future[int]]] = []
        self._sent: list[asyncio.Future[int]] = []
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def _connect(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(self._path, limit=2**24)
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            labels = await _take(reader)
            answered, self._sent = self._sent, []
            for future, label in zip(answered, labels, strict=True):
                future.set_result(label)
            self._hand_over()

    def _hand_over(self) -> None:
        """Hand over all that waits; what comes meanwhile waits for the answer."""
        if self._held and not self._sent and self._writer is not None:
            body, self._sent = b"".join(row for row, _ in self._held), [future for _, future in self._held]
            self._held.clear()
            self._writer.write(HEAD.pack(len(body)) + body)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._writer is None and self._reading is None:
            await self._connect()
        loop = asyncio.get_running_loop()
        values = orjson.loads((await receive())["body"])
        row = int(values["context"][1:]).to_bytes(4, "little")
        row += np.asarray(values["inputs"][0], dtype="<f4").tobytes()
        future: asyncio.Future[int] = loop.create_future()
        self._held.append((row, future))
        if len(self._held) == 1:
            loop.call_soon(self._hand_over)
        text = b'{"labels":[%d]}' % await future
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def api(path: str, port: int) -> None:
    """An API process; several share the port."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    config = uvicorn.Config(Handler(path), lifespan="off", log_level="error", access_log=False)
    uvicorn.Server(config).run([listening])


def split(count: int, folder: Path, stack: ExitStack) -> str:
    """Start an engine and API processes; return their URL."""
    context, port = multiprocessing.get_context("spawn"), free_port()
    path = str(folder / f"engine-{count}")
    several = [context.Process(target=engine, args=(path,), daemon=True)]
    several += [context.Process(target=api, args=(path, port), daemon=True) for _ in range(count)]
    for process in several:
        process.start()
        stack.callback(process.kill)
        while not Path(path).exists():
            time.sleep(0.05)
    url = f"http://127.0.0.1:{port}/v1/infer"
    server, deadline = serving.SERVERS[0], time.monotonic() + 60
    while True:
        try:
            serving.check(server, url)
            return url
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    own = serving.SERVERS[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {"the service": stack.enter_context(serving.started(own, folder))}
        urls |= {f"{count} API processes": split(count, folder, stack) for count in (1, 2, 4)}
        script, found = serving.script_of(own, folder), dict[str, list[dict[str, float]]]()
        for _ in range(asked.turns):
            for name, url in urls.items():
                found.setdefault(name, []).append(serving.drive(url, script, CONNECTIONS, asked.seconds))
    rows = {
        name: {key: statistics.median(one[key] for one in several) for key in several[0]}
        for name, several in found.items()
    }
    print(json.dumps(rows, indent=1))
    write_json(asked.results, {"machine": machine(), "connections": CONNECTIONS, "servers": rows})


if __name__ == "__main__":
    main()
