"""Texts and images of a request, encoded off the event loop, in batches across requests, in fair shares; kept a time.

Each encoder of the store has one thread and one queue. What waits in it is admitted as the engine admits
rows: by the estimated wait and the request's deadline.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from superposed.config import EncoderConfig, OriginalKind
from superposed.encoders import Encoder, check_items, open_encoder
from superposed.encoders.pixels import SIGNATURES
from superposed.encoders.sentences import MODEL, stop_exports
from superposed.errors import ConfigError, EncoderUnavailable, InputError, ShapeError, SuperposedError, redacted
from superposed.tasks.schema import TaskSchema
from superposed_service.changes.rows import Originals
from superposed_service.engine.request_queues import FairQueue, current_request
from superposed_service.engine.work import deliver
from superposed_service.errors import DeadlineExceeded, Overloaded
from superposed_service.observability.counters import SECONDS, Distribution, family
from superposed_service.settings import Settings

_log = logging.getLogger("superposed.encoders")
# Items of one turn: fewer are padded more, and more make the others wait.
_TURN_ITEMS = 64
# An item takes a hundred times as long as a row: this many times as long may it wait.
_PATIENCE = 4
# Bytes of a kept embedding beside its array, about: its key, its place in the table, and the array's own.
_ENTRY_BYTES = 700


@dataclass
class _Waiting:
    """Items of one request that wait for their turn."""

    items: Sequence[str | bytes]
    places: Sequence[int]
    future: asyncio.Future[NDArray[Any]]


class EncoderThread:
    """One encoder: its queue, and the thread that opens it and works the queue off. On the event loop.

    `config` is what the store recorded of it; its model is kept in `folder`; one call has `threads` threads.
    """

    def __init__(self, name: str, config: EncoderConfig, folder: Path, threads: int, settings: Settings) -> None:
        self.name, self.config = name, config
        self.folder, self._threads, self._settings = folder, threads, settings
        self._queue: FairQueue[_Waiting] = FairQueue(_TURN_ITEMS)
        self._executor = ThreadPoolExecutor(1, f"superposed-encoder-{name}")
        self._working: asyncio.Task[None] | None = None
        self.durations = Distribution(SECONDS)
        # On its thread: the service need not wait for it.
        self._opened = asyncio.get_running_loop().run_in_executor(self._executor, self._open)
        self._opened.add_done_callback(self._note_opened)

    def _open(self) -> Encoder:
        found = open_encoder(self.config.spec, self.folder, threads=self._threads)
        if found.fingerprint != self.config.fingerprint:
            text = "is not the one that the store was made with: its rows would mean something else"
            text = f"encoder {self.name} {text}. Put the old model back, and remove {self.folder}"
            known, received = (one.fingerprint[:16] for one in (self.config, found))
            raise EncoderUnavailable(text, expected=known, received=received)
        return found

    def _note_opened(self, opened: asyncio.Future[Encoder]) -> None:
        if not opened.cancelled() and (error := opened.exception()) is not None:
            _log.error("no encoder", extra={"encoder": self.name, "reason": str(error)})

    @property
    def status(self) -> str:
        """One of `loading`, `ready`, and the reason why it cannot be used."""
        if not self._opened.done() or self._opened.cancelled():
            return "loading"
        error = self._opened.exception()
        return "ready" if error is None else str(error)

    async def encode(self, items: Sequence[str | bytes], places: Sequence[int]) -> NDArray[Any]:
        """Return rows (B, width) of B items; errors call them by `places`.

        Raise `EncoderUnavailable` where its model or a package is missing; `InputError` where an item cannot be
        encoded; `Overloaded` where its turn would come too late; `DeadlineExceeded` where its turn did not come in
        time.
        """
        caller = current_request()
        limit_s = caller.left_s(self._settings.request_timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                encoder = await self._ready()
                if len(self._queue) >= self._settings.queue_requests:
                    raise Overloaded("too many requests wait for the encoder")
                most_s = _PATIENCE * self._settings.queue_delay_ms / 1000
                text = "too much waits for the encoder: the answer would come too late"
                self._queue.check_wait(caller, len(items), most_s, text)
                futures: list[asyncio.Future[NDArray[Any]]] = []
                for start in range(0, len(items), _TURN_ITEMS):  # a long request takes its turns among others
                    of = slice(start, start + _TURN_ITEMS)
                    futures.append(asyncio.get_running_loop().create_future())
                    part = _Waiting(items[of], places[of], futures[-1])
                    self._queue.push(part, caller.source, len(part.items), time.monotonic() + limit_s)
                if self._working is None or self._working.done():
                    self._working = asyncio.create_task(self._work(encoder))
                together = asyncio.gather(*futures)
                try:
                    return np.concatenate(await together)
                finally:
                    for future in futures:  # where one was refused, the others are dropped
                        future.cancel()
        except TimeoutError:
            late = DeadlineExceeded("no encoding in time; it was dropped", expected=f"within {limit_s} s")
            raise late from None

    async def _ready(self) -> Encoder:
        try:
            return await asyncio.shield(self._opened)
        except EncoderUnavailable as error:
            raise EncoderUnavailable(error.message, expected=error.expected, received=error.received) from None

    async def _work(self, encoder: Encoder) -> None:
        """Work the queue off, some items a turn."""
        loop = asyncio.get_running_loop()
        while turn := self._next_turn():
            began = time.monotonic()
            outcomes = await loop.run_in_executor(self._executor, _encoded, encoder, turn)
            taken = time.monotonic() - began
            self._queue.service_time.note(sum(len(one.items) for one in turn), taken)
            self.durations.observe(taken)
            deliver([(one.future, outcome) for one, outcome in zip(turn, outcomes, strict=True)])

    def _next_turn(self) -> list[_Waiting]:
        turn: list[_Waiting] = []
        size = 0
        while (entry := self._queue.peek()) is not None:
            gone = entry.work.future.done() or entry.deadline <= time.monotonic()
            if turn and not gone and size + entry.size > _TURN_ITEMS:
                break
            self._queue.pop()
            if not gone:
                turn.append(entry.work)
                size += entry.size
        return turn

    def close(self) -> None:
        """End its thread, once it has done what it is doing."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _encoded(encoder: Encoder, turn: list[_Waiting]) -> list[NDArray[Any] | Exception]:
    """Return rows for each request's items, or its error; one that cannot be encoded spoils no other."""
    places = [place for one in turn for place in one.places]
    try:
        rows = encoder.encode([item for one in turn for item in one.items], places)
    except SuperposedError as error:
        return [error] if len(turn) == 1 else [_encoded(encoder, [one])[0] for one in turn]
    except Exception as error:  # noqa: BLE001 - a bug must not end the queue
        return [error] * len(turn)
    return list(np.split(rows, np.cumsum([len(one.items) for one in turn])[:-1]))


class CacheKey(NamedTuple):
    """The key of an embedding: encoder, API key, task (empty where it is to be found), digest of the item.

    Each API key and task has entries of its own: the time of an answer tells nothing of what others asked.
    """

    encoder: str
    source: str
    task: str
    digest: bytes


def _digest(item: str | bytes) -> bytes:
    data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
    return hashlib.blake2b(data, digest_size=16).digest()


class EmbeddingCache:
    """Embeddings of `most_bytes` in all, the ones used longest ago leave first; 0 keeps none. One thread."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._rows: OrderedDict[CacheKey, NDArray[Any]] = OrderedDict()
        self.bytes = self.erasures = 0

    def get(self, key: CacheKey) -> NDArray[Any] | None:
        """Return an embedding (width,), or None."""
        found = self._rows.get(key)
        if found is not None:
            self._rows.move_to_end(key)
        return found

    def put(self, key: CacheKey, row: NDArray[Any]) -> None:
        """Keep an embedding (width,)."""
        size = row.nbytes + _ENTRY_BYTES
        if key in self._rows or size > self._most_bytes:
            return
        self._rows[key] = np.array(row)  # its own memory: a view would keep the whole batch
        self.bytes += size
        while self.bytes > self._most_bytes:
            self._drop(next(iter(self._rows)))

    def forget(self, tasks: Collection[str]) -> None:
        """Drop every embedding that was made for some tasks, and what is being made now."""
        self.erasures += 1
        for key in [key for key in self._rows if key.task in tasks]:
            self._drop(key)

    def _drop(self, key: CacheKey) -> None:
        self.bytes -= self._rows.pop(key).nbytes + _ENTRY_BYTES


class Encoders(Collector):
    """A store's encoders, each with its model's folder in `folder`, and kept embeddings. On the event loop."""

    def __init__(self, configs: Mapping[str, EncoderConfig], folder: Path, threads: int, settings: Settings) -> None:
        self.cache = EmbeddingCache(settings.embedding_cache_bytes)
        self._threads = {
            name: EncoderThread(name, config, folder / name, threads, settings) for name, config in configs.items()
        }
        self._items: Counter[tuple[str, str]] = Counter()

    def close(self) -> None:
        """End their threads, and exports that have begun."""
        stop_exports()
        for thread in self._threads.values():
            thread.close()

    def body(self) -> dict[str, Any]:
        """Return the encoders as `GET /v1/store` shows them."""
        threads = self._threads.items()
        return {name: {**one.config.model_dump(mode="json"), "status": one.status} for name, one in threads}

    def model_file(self, name: str | None) -> Path:
        """Return the ONNX file of an encoder; raise `ConfigError` for one that has none."""
        file = self._threads[name].folder / MODEL if name in self._threads else None
        if file is None or not file.exists():
            text = "the task has no encoder that is an ONNX model"
            raise ConfigError(text, expected="a task of texts", received=name)
        return file

    def names(self, kind: OriginalKind | None) -> list[str]:
        """Return the names of the encoders of a kind."""
        return [name for name in self._threads if kind in {None, self.kind(name)}]

    def kind(self, name: str) -> OriginalKind:
        """Return what an encoder encodes."""
        return self._threads[name].config.kind

    async def encode(
        self, name: str, tasks: Sequence[str], items: Sequence[str | bytes], spend: Callable[[int], None]
    ) -> NDArray[Any]:
        """Return rows (B, width) of texts or images, each for its task (B,); `spend` gets the number of new ones.

        Raises as `spend` and `EncoderThread.encode`.
        """
        source, erasures = current_request().source, self.cache.erasures
        keys = [CacheKey(name, source, task, _digest(item)) for task, item in zip(tasks, items, strict=True)]
        rows = [self.cache.get(key) for key in keys]
        missing = [place for place, row in enumerate(rows) if row is None]
        if missing:
            spend(len(missing))
        self._items[name, "hit"] += len(rows) - len(missing)
        if len(rows) == 1 and rows[0] is not None:
            return rows[0][None]
        if missing:
            self._items[name, "miss"] += len(missing)
            found = await self._threads[name].encode([items[place] for place in missing], missing)
            for place, row in zip(missing, found, strict=True):
                rows[place] = row
                if keys[place].task and erasures == self.cache.erasures:  # else its task's rows were erased meanwhile
                    self.cache.put(keys[place], row)
        return np.stack([row for row in rows if row is not None])

    def collect(self) -> Iterator[Metric]:
        """Return counts, times and sizes."""
        text = "Number of texts and images, by whether their embedding was kept (hit) or not (miss)."
        yield family(CounterMetricFamily, "encoder_items", text, self._items, "encoder", "cache")
        text = "Seconds of encoding one batch."
        durations = {(name,): one.durations for name, one in self._threads.items()}
        yield family(HistogramMetricFamily, "encoder_duration_seconds", text, durations, "encoder")
        yield family(GaugeMetricFamily, "embedding_cache_bytes", "Bytes of kept embeddings.", {(): self.cache.bytes})


def read_as(originals: Originals, schemas: Sequence[TaskSchema]) -> tuple[str, list[str]]:
    """Return the encoder that the tasks of texts or images (B,) have, and each one's task, of its schemas (B,).

    Raise `ShapeError` where a task takes something else, or they have several encoders.
    """
    encoders: dict[str, str] = {}
    for schema in schemas:
        if schema.encoder is None or originals.kind not in {None, schema.kind}:
            text = f"task {schema.key} takes {schema.kind}, not {originals.kind or 'texts or images'}"
            known = {"rows": "inputs: rows of numbers", "images": "images: files in base64 (in Python bytes, or Path)"}
            wanted = known.get(schema.kind, schema.kind)
            raise ShapeError(text, expected=wanted, received=originals.kind or "bytes")
        encoders.setdefault(schema.encoder, schema.key)
    if len(encoders) > 1:
        text = "rows of several encoders in one request: send one request for each"
        raise ShapeError(text, expected="tasks of one encoder", received=", ".join(encoders))
    return next(iter(encoders)), [schema.key for schema in schemas]


def items_of(originals: Originals, kind: OriginalKind) -> list[str | bytes]:
    """Return texts as strings, and images as the bytes of their files.

    Raise `InputError` for what is no text or image, or too large; `EncoderUnavailable` where a package is missing.
    """
    read = _text if kind == "texts" else _image
    items = [read(item, place) for place, item in enumerate(originals.items)]
    check_items(kind, items)
    return items


def _text(item: str | bytes, place: int) -> str:
    try:
        return item.decode() if isinstance(item, bytes) else item
    except UnicodeDecodeError:
        raise InputError(f"text {place} is not UTF-8") from None


def _image(item: object, place: int) -> bytes:
    if isinstance(item, bytes) and item.startswith(SIGNATURES):
        return item
    try:
        return base64.b64decode(item, validate=True)  # type: ignore[arg-type]  # what it is no other way is told
    except (binascii.Error, TypeError, ValueError):
        wanted = "a PNG or JPEG file in base64"
        raise InputError(f"image {place} is not base64", expected=wanted, received=redacted(item)) from None
