"""A follower: a server that applies its leader's records, and so is the same store, bit for bit.

It asks the leader for what comes after its own newest record, journals it (fsync), and applies it as a
recovery does. Where the leader's journal no longer reaches back, it begins again from a snapshot.
"""

import asyncio
import logging
import time
from functools import partial
from typing import Any

import httpx

from superposed.errors import ConfigError
from superposed.store.store import WeightStore
from superposed_service.changes.exclusions import FORGET_ROWS, TAKING_OUT, Exclusions, RollbackDecision
from superposed_service.changes.replay import recover
from superposed_service.engine.writer import Writer
from superposed_service.errors import DigestMismatch, HistoryTruncated, JournalCorrupt, NotReady, ServiceUnavailable
from superposed_service.runtime.runtime import Runtime
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Shipment
from superposed_service.storage.shipping import Place, unframed

_log = logging.getLogger("superposed.follower")
_WAIT_S, _AGAIN_S = 5.0, 0.2
_RECORDS, _SNAPSHOT = "/v1/replication/records", "/v1/replication/snapshot"


def _client(settings: Settings) -> dict[str, Any]:
    key = settings.follow_api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": settings.follow, "headers": headers, "timeout": httpx.Timeout(10.0, read=_WAIT_S + 10.0)}


def _checked(response: httpx.Response) -> bytes:
    """Return a leader's answer, or raise the error that it is."""
    if response.is_success:
        return response.content
    reason = f"the leader answered {response.status_code}: {response.text[:300]}"
    if response.status_code == httpx.codes.CONFLICT:
        raise HistoryTruncated(reason)
    if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise ServiceUnavailable(reason)
    raise ConfigError(reason, expected="a leader, and a key of scope replicate (SUPERPOSED_FOLLOW_API_KEY)")


def _store(head: dict[str, Any], data: bytes, device: str = "cpu") -> tuple[WeightStore, dict[str, Any]]:
    """Return a snapshot's store, and where in the leader's journal it stands."""
    store = WeightStore.from_bytes(data, device=device)
    if (digest := store.digest()) != head["digest"]:
        raise DigestMismatch("the leader's snapshot came damaged", expected=head["digest"], received=digest)
    chain = bytes.fromhex(head["chain"])
    return store, {"sequence": store.sequence, "lineage": store.lineage, "chain": chain}


def seed(directory: DataDirectory, settings: Settings) -> None:
    """Make an empty directory the home of the leader's store, as its newest snapshot has it.

    Raises:
        ConfigError: The leader rejects the request, or is not reached.
    """
    directory.check_untouched()
    try:
        with httpx.Client(**_client(settings)) as client:
            head, data = unframed(_checked(client.get(_SNAPSHOT)))
    except httpx.TransportError as error:
        raise ConfigError(f"the leader {settings.follow} is not reached", received=repr(error)) from error
    store, place = _store(head, data)
    directory.initialise(data, digest=store.digest(), **place)
    _log.info("seeded from the leader", extra={"sequence": head["sequence"], "bytes": len(data)})


class Follower:
    """Keeps a running service at its leader's newest record."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._settings = runtime, runtime.settings
        self.newest, self._contact, self._failure = 0, 0.0, ""
        self._keys = runtime.directory.transaction_log().api_keys
        self._keys.good_until = 0.0
        self._client = httpx.AsyncClient(**_client(runtime.settings))

    @property
    def not_ready(self) -> NotReady | None:
        """Reason why it may be behind, or None."""
        silent = time.monotonic() - self._contact
        if self._failure:
            return NotReady("the follower has stopped following", received=self._failure)
        if silent > self._settings.follow_timeout_s:
            return NotReady(f"the leader {self._settings.follow} was not reached for {silent:.0f} s")
        return None

    async def start(self) -> asyncio.Task[None]:
        """Begin to follow; return once everything is applied that the leader had at the first contact."""
        caught_up = asyncio.Event()
        self._task = asyncio.create_task(self._run(caught_up))
        await caught_up.wait()
        return self._task

    def stop(self) -> None:
        """End following."""
        self._task.cancel()

    async def _run(self, caught_up: asyncio.Event) -> None:
        """Follow; a failure that a new attempt does not mend ends it, and is logged."""
        target, sequence = None, 0
        try:
            await self._runtime.finish_erasures()  # what a process that ended before could not finish
            while True:
                try:
                    sequence = await self._step()
                except (httpx.TransportError, ServiceUnavailable) as error:
                    level = logging.WARNING if sequence >= 0 else logging.DEBUG  # once an outage
                    _log.log(level, "the leader was not reached", extra={"reason": repr(error)})
                    await asyncio.sleep(_AGAIN_S)
                    sequence = -1
                target = self.newest if target is None and self._contact else target
                if target is not None and sequence >= target:
                    caught_up.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told by `not_ready`
            self._failure = str(error)
            _log.critical("the follower has stopped following", extra={"reason": repr(error)})
            caught_up.set()
        finally:
            await self._client.aclose()

    async def _step(self) -> int:
        """Ask once, and apply the records that come; return the sequence number reached."""
        after, chain, keys = await self._runtime.engine.call_writer(_place)
        wait_s = _WAIT_S if self._contact else 0.0
        asked: dict[str, str | float] = {"after": after, "chain": chain, "keys": keys, "wait_s": wait_s}
        try:
            shipment = Shipment.from_bytes(_checked(await self._client.get(_RECORDS, params=asked)))
        except HistoryTruncated as error:
            return await self._begin_again(str(error))
        if not await self._runtime.engine.call_writer(partial(self._can_rebuild, shipment)):
            return await self._begin_again("a rollback reaches past this follower's snapshots")
        self.newest, self._contact = shipment.newest, time.monotonic()
        received = await self._runtime.engine.call_writer(
            lambda writer: writer.receive(shipment, partial(self._rebuilt, writer))
        )
        self._keys.good_until = self._contact + self._settings.follow_timeout_s
        await asyncio.gather(*map(asyncio.wrap_future, received), return_exceptions=True)
        kinds = {entry.kind for entry, _ in shipment.changes}
        if kinds & TAKING_OUT:
            await self._runtime.snapshot()
        if FORGET_ROWS in kinds:
            await self._runtime.finish_erasures()
        return after + len(shipment.changes)

    async def _begin_again(self, reason: str) -> int:
        """Take the leader's newest snapshot in place of what is here; returns its sequence number."""
        head, data = unframed(_checked(await self._client.get(_SNAPSHOT)))
        _log.warning("beginning again from a snapshot", extra={"sequence": head["sequence"], "reason": reason})
        device = await self._runtime.engine.call(lambda store: str(store.device))
        store, place = await asyncio.to_thread(_store, head, data, device)
        await asyncio.to_thread(self._runtime.directory.snapshots.write, data, digest=store.digest(), **place)
        await self._runtime.engine.call_writer(
            lambda writer: writer.begin_again(store, place["sequence"], place["chain"])
        )
        self._runtime.version = str(store.sequence)
        return store.sequence

    def _can_rebuild(self, shipment: Shipment, writer: Writer) -> bool:
        """Return True if some snapshot here is from before all that the records take out."""
        if not TAKING_OUT & {entry.kind for entry, _ in shipment.changes}:
            return True
        journal, listed = writer.transaction_log.journal, self._runtime.directory.snapshots.list()
        exclusions = Exclusions.look_up(journal, journal.sequence)
        for sequence, (entry, _) in enumerate(shipment.changes, journal.sequence + 1):
            if entry.kind in TAKING_OUT:
                exclusions = exclusions.with_rollback(RollbackDecision(sequence, entry.head["excluded"]))
        return any(one.sequence >= journal.horizon and exclusions.allows_start(one.sequence) for one in listed)

    def _rebuilt(self, writer: Writer, through: int) -> WeightStore:
        log, device = writer.transaction_log, str(writer.store.device)
        return recover(self._runtime.directory.snapshots, log, device, through=through)[0]


def _place(writer: Writer) -> Place:
    if (failure := writer.transaction_log.failure) is not None:
        raise JournalCorrupt("the follower's journal failed", received=failure)
    log = writer.transaction_log
    return Place(log.journal.sequence, log.journal.chain.hex(), log.api_keys.digest)
