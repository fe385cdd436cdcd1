"""A follower: a server that applies its leader's records, and so is the same store, bit for bit.

It asks the leader for what comes after its own newest record, journals it (fsync), and applies it as a
recovery does. Where the leader's journal no longer reaches back, it begins again from a snapshot.
"""

import asyncio
import base64
import json
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from superposed.errors import ConfigError, SuperposedError
from superposed.store import tensorfile
from superposed.store.store import WeightStore
from superposed_service.changes.exclusions import FORGET_ROWS, TAKING_OUT, Exclusions, RollbackDecision
from superposed_service.changes.replay import recover, starts
from superposed_service.changes.snapshot import facts
from superposed_service.engine.writer import Writer
from superposed_service.errors import (
    DigestMismatch,
    Diverged,
    HistoryTruncated,
    JournalCorrupt,
    NotReady,
    ServiceUnavailable,
)
from superposed_service.followers.connection import WAIT_S, client_options
from superposed_service.runtime.runtime import Runtime
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Shipment, TransactionLog
from superposed_service.storage.journal import BEGUN
from superposed_service.storage.shipping import Place, unframed

_log = logging.getLogger("superposed.follower")
_AGAIN_S = 0.2
ASIDE = "aside"
# Refusals that another attempt may not get.
_PASSING = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.MISDIRECTED_REQUEST})
_RECORDS, _SNAPSHOT = "/v1/replication/records", "/v1/replication/snapshot"


def _checked(response: httpx.Response) -> bytes:
    """Return a leader's answer, or raise the error that it is."""
    if response.is_success:
        return response.content
    reason = f"the leader answered {response.status_code}: {response.text[:300]}"
    if response.status_code == httpx.codes.CONFLICT:
        problem = response.json()
        diverged = problem["type"].endswith(":diverged")
        raise Diverged(reason, expected=problem["expected"]) if diverged else HistoryTruncated(reason)
    if response.is_server_error or response.status_code in _PASSING:
        raise ServiceUnavailable(reason)
    raise ConfigError(reason, expected="a leader, and a key of scope replicate (SUPERPOSED_FOLLOW_API_KEY)")


def _store(head: dict[str, Any], data: bytes, device: str = "cpu") -> WeightStore:
    """Return a snapshot's store."""
    store = WeightStore.from_bytes(data, device=device)
    if (digest := store.digest()) != head["digest"]:
        raise DigestMismatch("the leader's snapshot came damaged", expected=head["digest"], received=digest)
    return store


def seed(directory: DataDirectory, settings: Settings) -> None:
    """Make an empty directory the home of the leader's store, as its newest snapshot has it.

    Raise `ConfigError` where the leader rejects the request, or is not reached.
    """
    directory.check_untouched()
    try:
        with httpx.Client(**client_options(settings, settings.follow)) as client:
            head, data = unframed(_checked(client.get(_SNAPSHOT)))
    except httpx.TransportError as error:
        raise ConfigError(f"the leader {settings.follow} is not reached", received=repr(error)) from error
    directory.initialise(data, chain=bytes.fromhex(head["chain"]), **facts(_store(head, data)))
    directory.transaction_log().epochs.keep(head["epoch"], head["starts"])
    _log.info("seeded from the leader", extra={"sequence": head["sequence"], "bytes": len(data)})


class Follower:
    """Keeps a running service at its leader's newest record, from now on.

    Attributes:
        newest: Sequence number of the leader's newest record, when it was last heard of.
    """

    def __init__(self, runtime: Runtime, url: str) -> None:
        self._runtime, self._settings, self.url = runtime, runtime.settings, url
        self.newest, self._contact, self._failure = 0, 0.0, ""
        self._keys = runtime.directory.transaction_log().api_keys
        self._client = httpx.AsyncClient(**client_options(runtime.settings, url))
        self._applying: Sequence[Future[Any]] = []
        self._caught_up = asyncio.Event()
        self._compared = -1.0  # the leader's snapshot that this store was compared with
        self._task = asyncio.create_task(self._run())

    @property
    def not_ready(self) -> NotReady | None:
        """Reason why it may be behind, or None."""
        silent = time.monotonic() - self._contact
        if self._failure:
            return NotReady("the follower has stopped following", received=self._failure)
        if silent > self._settings.follow_timeout_s:
            return NotReady(f"the leader {self.url} was not reached for {silent:.0f} s")
        return None

    async def catch_up(self) -> None:
        """Wait until everything is applied that the leader had at the first contact."""
        await self._caught_up.wait()
        await self._applied()

    async def stop(self) -> None:
        """End following."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Follow; a failure that a new attempt does not mend ends it, and is logged."""
        target, sequence = None, 0
        try:
            await self._runtime.finish_erasures()  # what a process that ended before could not finish
            while True:
                try:
                    sequence = await self._step()
                except (httpx.TransportError, ServiceUnavailable) as error:
                    self._caught_up.set()  # it may be the leader that does not come back
                    level = logging.WARNING if sequence >= 0 else logging.DEBUG  # once an outage
                    _log.log(level, "the leader was not reached", extra={"reason": repr(error)})
                    await asyncio.sleep(_AGAIN_S)
                    sequence = -1
                target = self.newest if target is None and self._contact else target
                if target is not None and sequence >= target:
                    self._caught_up.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told by `not_ready`
            self._failure = str(error)
            _log.critical("the follower has stopped following", extra={"reason": repr(error)})
            self._caught_up.set()
        finally:
            await self._client.aclose()

    async def _step(self) -> int:
        """Ask once, and apply the records that come; return the sequence number reached."""
        place = await self._runtime.engine.call_writer(_place)
        asked = place._asdict() | {"wait_s": WAIT_S if self._contact else 0.0}
        try:
            shipment = Shipment.from_bytes(_checked(await self._client.get(_RECORDS, params=asked)))
        except Diverged as error:
            return await self._take_back(int(str(error.expected)))
        except HistoryTruncated as error:
            return await self._begin_again(str(error))
        if not await self._runtime.engine.call_writer(partial(self._can_rebuild, shipment)):
            return await self._begin_again("a rollback reaches past this follower's snapshots")
        self.newest, self._contact = shipment.newest, time.monotonic()
        await self._applied()  # the records before these, which are applied while the next are asked for
        received = await self._runtime.engine.call_writer(
            lambda writer: writer.receive(shipment, partial(self._rebuilt, writer))
        )
        self._keys.good_until = self._contact + self._settings.follow_timeout_s
        self._applying = received
        fingerprint = self._runtime.directory.transaction_log().journal.fingerprint()
        if shipment.fingerprint != fingerprint and self._compared < shipment.snapshot <= place.sequence:
            await self._compare(shipment.snapshot)
        kinds = {entry.kind for entry, _ in shipment.changes}
        if kinds & (TAKING_OUT | {FORGET_ROWS}):
            await self._applied()
        if kinds & TAKING_OUT:
            await self._runtime.snapshot()
        if FORGET_ROWS in kinds:
            await self._runtime.finish_erasures()
        return place.sequence + len(shipment.changes)

    async def _applied(self) -> None:
        await asyncio.gather(*map(asyncio.wrap_future, self._applying), return_exceptions=True)

    async def _take_back(self, first: int) -> int:
        """Keep aside what no leader has, from a record on, and go on without it; returns the sequence number."""

        def change(writer: Writer) -> bool:
            log, directory = writer.transaction_log, self._runtime.directory
            path = keep_aside(directory.path, log, first)
            _log.critical("records that no leader has are kept aside", extra={"file": str(path)})
            exclusions = Exclusions.read(log.journal, first - 1, checked=True)
            if not starts(directory.snapshots.list(), log.journal, exclusions, first - 1):
                return False
            writer.go_on(lambda log: log.cut(first), lambda: self._rebuilt(writer, first - 1))
            return True

        if not await self._runtime.in_turn(self._runtime.engine.call_writer(change)):
            return await self._begin_again("no snapshot is from before the leader's epoch", first)
        await self._runtime.snapshot()
        return first - 1

    async def _compare(self, sequence: int) -> None:
        """Measure how far this store is from the leader's, which another processor or library made."""
        again = self._settings.follow_mode == "snapshots"
        self._compared = sequence if again else math.inf
        head, data = unframed(_checked(await self._client.get(_SNAPSHOT)))
        store = await asyncio.to_thread(_store, head, data)
        try:
            own = await self._runtime.engine.call_writer(lambda writer: self._rebuilt(writer, store.sequence))
            known = {"sequence": store.sequence, "difference": difference(own, store)}
            _log.warning("this store is equal to the leader's to rounding", extra=known)
        except SuperposedError as error:
            _log.warning("this store was not compared with the leader's", extra={"reason": str(error)})
        if again:
            await self._begin_again("SUPERPOSED_FOLLOW_MODE is snapshots")

    async def _begin_again(self, reason: str, first: int | None = None) -> int:
        """Take the leader's newest snapshot in place of what is here; returns its sequence number.

        `first` is the first record here that the leader does not have.
        """
        head, data = unframed(_checked(await self._client.get(_SNAPSHOT)))
        _log.warning("beginning again from a snapshot", extra={"sequence": head["sequence"], "reason": reason})
        device = await self._runtime.engine.call(lambda store: str(store.device))
        store, chain = await asyncio.to_thread(_store, head, data, device), bytes.fromhex(head["chain"])
        directory, engine = self._runtime.directory, self._runtime.engine

        def change(writer: Writer) -> None:
            log = writer.transaction_log
            if writer.store.lineage != store.lineage or head["epoch"] < log.epochs.promised:
                raise ConfigError("the snapshot is another store's, or of an epoch that is over")
            writer.go_on(lambda log: log.begin(store.sequence, chain, but=first), lambda: store)
            log.epochs.keep(head["epoch"], [(epoch, begins) for epoch, begins in head["starts"]])

        async def work() -> None:
            # From here on a start takes the snapshots for others' that the journal does not hold.
            await engine.call_writer(lambda writer: writer.transaction_log.journal.set_high_water_mark(BEGUN))
            await asyncio.to_thread(directory.snapshots.write, data, chain=chain, **facts(store))
            await engine.call_writer(change)

        await self._runtime.in_turn(work())
        self._runtime.version = str(store.sequence)
        return store.sequence

    def _can_rebuild(self, shipment: Shipment, writer: Writer) -> bool:
        """Return True if some snapshot here is from before all that the records take out."""
        if not TAKING_OUT & {entry.kind for entry, _ in shipment.changes}:
            return True
        journal, listed = writer.transaction_log.journal, self._runtime.directory.snapshots.list()
        exclusions = Exclusions.read(journal, journal.sequence, checked=True)
        for sequence, (entry, _) in enumerate(shipment.changes, journal.sequence + 1):
            if entry.kind in TAKING_OUT:
                exclusions = exclusions.with_rollback(RollbackDecision(sequence, entry.head["excluded"]))
        return bool(starts(listed, journal, exclusions, journal.sequence))

    def _rebuilt(self, writer: Writer, through: int) -> WeightStore:
        log, device = writer.transaction_log, str(writer.store.device)
        return recover(self._runtime.directory.snapshots, log, device, through=through)[0]


def _place(writer: Writer) -> Place:
    if (failure := writer.transaction_log.failure) is not None:
        raise JournalCorrupt("the follower's journal failed", received=failure)
    return Place.of(writer.transaction_log)


def difference(store: WeightStore, other: WeightStore) -> float:
    """Return the largest difference between two stores' tensors, as a part of the largest value there."""
    pairs = [(one.cpu().double(), other.state()[name].cpu().double()) for name, one in store.state().items()]
    return max(float((one - two).abs().max() / two.abs().max().clamp_min(1e-12)) for one, two in pairs if one.numel())


def keep_aside(folder: Path, log: TransactionLog, first: int) -> Path:
    """Write the records from `first` on, which no leader has, to a file of JSON lines, and return its path."""
    origins, lines = log.answers.origins(first - 1), []
    for record in log.journal.replay(max(first - 1, log.journal.horizon)):
        payload = None if record.payload is None else base64.b64encode(record.payload).decode()
        origin = origins.get(record.sequence)
        known = {"idempotency_key": origin and origin.key, "payload": payload}
        lines.append(json.dumps({"sequence": record.sequence, "kind": record.kind, "head": record.head} | known))
    (folder / ASIDE).mkdir(mode=0o700, exist_ok=True)
    path = folder / ASIDE / f"epoch-{log.epochs.epoch_of(first)}-records-{first}-{log.journal.sequence}.jsonl"
    tensorfile.write(path, "\n".join(lines).encode())
    return path
