"""Sends a load over plain sockets, with requests made beforehand, so that the client is not what is measured.

Closed loop: each connection sends its next request when the last one is answered. Open loop: requests have
times (a Poisson process) and are late if the server is; their latency counts from when they should have been
sent, so that a server that stalls cannot hide it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from uvicorn.loops.auto import auto_loop_factory

from superposed_service.api.tensors import HEAD_LENGTH, TENSORS_MEDIA_TYPE
from superposed_service.errors import NotReady

__all__ = ["Load", "Outcome", "run"]

_PREPARED = 512


@dataclass(frozen=True)
class Load:
    """A load to send.

    Args:
        url: The server.
        tasks: Task keys that requests are for, and each one's number of features.
        keys: Whether every task is as likely, or the first ones more so (Zipf, exponent 1).
        kind: What is asked.
        rows: Rows of a request, all of one task.
        binary: Binary tensors, or JSON.
        bytes_a_number: 4 for floats, 1 for whole numbers up to 255, as of pixels.
        connections: How many there are at once.
        rate: Requests a second; None for a closed loop.
        seconds: How long.
        api_key: For the server.
        seed: Of rows, keys and times.
    """

    url: str
    tasks: Sequence[tuple[str, int]]
    keys: Literal["uniform", "zipf"] = "uniform"
    kind: Literal["infer", "update"] = "infer"
    rows: int = 1
    binary: bool = True
    bytes_a_number: Literal[1, 4] = 4
    connections: int = 8
    rate: float | None = None
    seconds: float = 10.0
    api_key: str | None = None
    seed: int = 0


@dataclass
class Outcome:
    """Result of a load.

    Args:
        seconds: How long it took: until the last good answer, where there was one.
        latencies_ms: Of every request that was answered 200, from when it was due.
        served_ms: The same from when it was sent, without the wait for a connection that was free.
        statuses: How many answers had each status.
        without_retry_after: How many refusals (429, 503) did not say when to come again.
        unsent: How many were due (open loop) and never sent, as all connections waited for answers until the
            end: latencies know nothing of them.
    """

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    served_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    unsent: int = 0

    @property
    def requests_per_s(self) -> float:
        """Good answers a second."""
        return len(self.latencies_ms) / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Return the latency in ms that `percent` percent of the good responses did not exceed."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else 0.0


def run(load: Load) -> Outcome:
    """Send the load.

    Raises:
        NotReady: No server answers at the URL.
    """
    draw = np.random.default_rng(load.seed)
    weights = 1 / np.arange(1, len(load.tasks) + 1) ** (1.0 if load.keys == "zipf" else 0.0)
    chosen = draw.choice(len(load.tasks), size=_PREPARED, p=weights / weights.sum())
    asked = [load.tasks[place] for place in chosen.tolist()]
    requests = [_request(load, task, features, draw) for task, features in asked]
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(_drive(load, requests, draw))


def _request(load: Load, task: str, features: int, draw: np.random.Generator) -> bytes:
    rows: NDArray[Any] = draw.random((load.rows, features), dtype=np.float32)
    if load.bytes_a_number == 1:
        rows = (255 * rows).astype(np.uint8)
    targets = draw.integers(0, 2, load.rows)
    body: dict[str, Any] = {"context": task}
    if load.kind == "infer":
        body["return"] = ["labels"]
    arrays = {"inputs": rows} | ({"targets": targets} if load.kind == "update" else {})
    headers = {"Host": urlsplit(load.url).netloc, "Content-Type": "application/json"}
    if load.api_key:
        headers["Authorization"] = f"Bearer {load.api_key}"
    if load.binary:
        content, length = _tensors(body, arrays)
        headers |= {"Content-Type": TENSORS_MEDIA_TYPE, HEAD_LENGTH: str(length)}
    else:
        content = json.dumps(body | {name: array.tolist() for name, array in arrays.items()}).encode()
    headers["Content-Length"] = str(len(content))
    lines = [f"POST /v1/{load.kind} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _tensors(body: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> tuple[bytes, int]:
    names = {"float32": "FP32", "uint8": "UINT8", "int64": "INT64"}
    described = {name: {"datatype": names[a.dtype.name], "shape": a.shape} for name, a in arrays.items()}
    head = json.dumps(body | described).encode()
    return head + b"".join(array.tobytes() for array in arrays.values()), len(head)


async def _drive(load: Load, requests: Sequence[bytes], draw: np.random.Generator) -> Outcome:
    outcome, started = Outcome(), time.perf_counter()
    times: asyncio.Queue[float] = asyncio.Queue()
    if load.rate is not None:
        gaps = draw.exponential(1 / load.rate, size=max(1, int(2 * load.rate * load.seconds)))
        for moment in np.cumsum(gaps):
            if moment < load.seconds:
                times.put_nowait(started + float(moment))
    await asyncio.gather(
        *(_connection(load, requests, place, started, times, outcome) for place in range(load.connections))
    )
    outcome.unsent += times.qsize()
    outcome.seconds = outcome.seconds or time.perf_counter() - started
    return outcome


async def _connection(
    load: Load, requests: Sequence[bytes], place: int, started: float, times: asyncio.Queue[float], outcome: Outcome
) -> None:
    line = _Line(load.url)
    try:
        number = place * 37
        while (due := await _next(load, started + load.seconds, times, outcome)) is not None:
            sent = time.perf_counter()
            status, retry_after = await line.ask(requests[number % len(requests)])
            outcome.statuses[status] += 1
            outcome.without_retry_after += status in {429, 503} and not retry_after
            if status == 200:
                now = time.perf_counter()
                outcome.latencies_ms.append(1000 * (now - due))
                outcome.served_ms.append(1000 * (now - sent))
                outcome.seconds = now - started
            number += load.connections
    finally:
        line.close()


class _Line:
    """One connection, and another in its place where the server has closed it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._open: tuple[asyncio.Transport, _Connection] | None = None

    async def ask(self, request: bytes) -> tuple[int, bool]:
        """Send a request; the answer's status, and whether it says when to come again."""
        while True:
            fresh = self._open is None or self._open[0].is_closing()
            if self._open is None or fresh:
                self._open = await _connect(self._url)
            transport, connection = self._open
            transport.write(request)
            try:
                return await connection.answer()
            except ConnectionError as error:
                if fresh:
                    raise NotReady("the server closed a connection", received=str(error)) from None
                transport.close()  # servers do not keep idle connections for ever: it was closing just then

    def close(self) -> None:
        """End it."""
        if self._open is not None:
            self._open[0].close()


async def _connect(url: str) -> tuple[asyncio.Transport, _Connection]:
    where, loop = urlsplit(url), asyncio.get_running_loop()
    try:
        return await loop.create_connection(_Connection, where.hostname or "", where.port or 80)
    except OSError as error:
        raise NotReady(f"no server answers at {url}", received=str(error)) from None


class _Connection(asyncio.Protocol):
    """Reads one answer after another."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()

    async def answer(self) -> tuple[int, bool]:
        """Return its status, and whether it says when to come again."""
        found = await self._answer
        self._answer = asyncio.get_running_loop().create_future()
        return found

    def data_received(self, data: bytes) -> None:
        """Read as many bytes of the body as the head's length says."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        head = head.lower()
        if end and len(body) >= int(head.partition(b"content-length:")[2].split(b"\r\n")[0]):
            self._received.clear()
            self._answer.set_result((int(head.split(b" ", 2)[1]), b"\r\nretry-after:" in head))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits for an answer."""
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("in the middle of a request"))
            self._answer.exception()  # no request may be waiting


async def _next(load: Load, until: float, times: asyncio.Queue[float], outcome: Outcome) -> float | None:
    """Return the time that the next request counts from; None at the end."""
    now = time.perf_counter()
    if load.rate is None:
        return now if now < until else None
    if times.empty():
        return None
    due = times.get_nowait()
    if due > now:
        await asyncio.sleep(due - now)
    elif now > until:
        outcome.unsent += 1  # more came than the connections could carry
        return None
    return due
