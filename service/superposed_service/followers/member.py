"""A server among those of one store: whom it follows, when it leads, and how another is made the leader.

A promotion asks the servers to promise a new epoch. A server that has promised takes no record of an older epoch.
Every acknowledged change is on one of the servers that have promised; of these the one with the newest records leads.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from superposed.errors import ConfigError
from superposed_client.models import Promotion, ServerState
from superposed_service.engine.poison_detector import PoisonDetector
from superposed_service.engine.writer import Writer
from superposed_service.errors import InvalidRequest, ServiceUnavailable, TooFewFollowers
from superposed_service.followers.connection import client_options
from superposed_service.followers.follower import ASIDE, Follower
from superposed_service.runtime.runtime import Runtime
from superposed_service.settings import Settings
from superposed_service.storage import Position

_log = logging.getLogger("superposed.followers")
_LOOK_S, _HAND_OVER_S = 1.0, 10.0
_PATH = "/v1/replication"
_OWN = ""  # this server among the URLs


def urls(settings: Settings) -> list[str]:
    """Return the URLs of all servers of the store; raise `ConfigError` for more followers asked for than there are."""
    found = [url.strip().rstrip("/") for url in settings.members.split(",") if url.strip()]
    if settings.sync_followers > max(0, len(found) - 1):
        wanted = "SUPERPOSED_MEMBERS with the URLs of all servers, this one too"
        given = f"SUPERPOSED_SYNC_FOLLOWERS={settings.sync_followers}, {len(found)} members"
        raise ConfigError("more followers must have a change than there are", expected=wanted, received=given)
    return found


class Member:
    """The part of a running service that knows the store's other servers. On the event loop only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._settings = runtime, runtime.settings
        self._urls = urls(runtime.settings)
        self._log = runtime.directory.transaction_log()
        self._names: dict[str, str] = {}  # of the other members, by URL
        self._client = httpx.AsyncClient(**client_options(runtime.settings, ""))
        self._turn = asyncio.Lock()  # one change of the role at a time
        self._finding: asyncio.Task[None] | None = None

    async def start(self) -> asyncio.Task[None]:
        """Take a role: lead, follow, or wait for a leader; return the task that watches the others."""
        epochs, settings = self._log.epochs, self._settings
        promoted = epochs.promised > 1
        leads = epochs.led == epochs.promised if promoted else not settings.follow
        epochs.open = leads
        if self._urls or settings.follow:
            epochs.keep()
        if not leads:
            self._log.api_keys.good_until = 0.0
        await self._look()
        if settings.follow and not promoted and self._runtime.following is None:
            await self._follow(settings.follow)
        if isinstance(self._runtime.following, Follower):
            await self._runtime.following.catch_up()
        return asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Look at the other servers once a second, for as long as this one runs."""
        try:
            while await self._runtime.runs_for(_LOOK_S):
                try:
                    await self._look()
                except Exception:  # noqa: BLE001 - the next look may go better
                    _log.exception("the store's other servers were not looked at")
        finally:
            if self._finding is not None:
                self._finding.cancel()
            if self._runtime.following is not None:
                await self._runtime.following.stop()
            await self._client.aclose()

    def state(self) -> ServerState:
        """Return this server's own state, also while the engine is busy."""
        epochs, following = self._log.epochs, self._runtime.following
        aside = self._runtime.directory.path / ASIDE
        return ServerState(
            member=epochs.member,
            role="leader" if epochs.open else "waiting" if following is None else "follower",
            epoch=epochs.promised,
            sequence=self._runtime.engine.sequence,
            leader=epochs.leader,
            members=self._urls,
            sync_followers=self._settings.sync_followers,
            kept_aside=sorted(path.name for path in aside.glob("*.jsonl")),
        )

    def replace_members(self, members: Sequence[str]) -> None:
        """Take new URLs of the store's servers, of which one may have moved to another machine.

        Raise `InvalidRequest` for more or fewer than before, as a promotion counts them.
        """
        if len(members) != len(self._urls):
            text = "a store has as many servers as it was started with"
            raise InvalidRequest(text, expected=len(self._urls), received=len(members))
        self._urls = list(members)
        self._names = {url: name for url, name in self._names.items() if url in members}

    async def promise(self, epoch: int) -> Position:
        """Follow no more, promise an epoch, and return the journal's end; raise `NotLeader` unless it is the newest."""
        if epoch > self._log.epochs.promised:
            await self._stop_following()
            self._finding = asyncio.create_task(self._find_leader())
        keys = self._log.api_keys
        keys.good_until = min(keys.good_until, time.monotonic() + self._settings.follow_timeout_s)
        return await self._runtime.engine.call_writer(lambda writer: writer.promise(epoch))

    async def lead(self, epoch: int) -> None:
        """Lead an epoch that this server has promised; raise `NotLeader` where it has promised another one."""
        settings, log = self._settings, self._log

        def begin(writer: Writer) -> None:
            detector = PoisonDetector(writer.store, log, settings) if settings.canary_rows else None
            writer.lead(epoch, detector)

        await self._stop_following()
        self._runtime.engine.replication.begin()
        await self._runtime.engine.call_writer(begin)
        log.api_keys.good_until = math.inf
        _log.warning("this server leads", extra={"epoch": epoch})

    async def promote(self, *, allow_loss: bool = False) -> Promotion:
        """Make the server with the newest records the leader: this one, where no other has newer ones.

        A leader that is reached hands over: it acknowledges nothing more, and this server takes what it has. With
        `allow_loss` acknowledged changes may be lost, because too few servers are reached to know them. Raise
        `TooFewFollowers` where so few servers are reached that one with an acknowledged change may be missing;
        `ServiceUnavailable` where a server has promised another epoch meanwhile.
        """
        async with self._turn:
            states = {**await self._states(), _OWN: self.state()}
            self._check_enough(states, allow_loss)
            epoch = 1 + max(state.epoch for state in states.values())
            places = await self._hand_over(states, epoch)
            rest = [url for url in states if url not in places]
            found = await asyncio.gather(*(self._ask_promise(url, epoch) for url in rest), return_exceptions=True)
            places |= {url: place for url, place in zip(rest, found, strict=True) if isinstance(place, Position)}
            self._check_enough({url: states[url] for url in places}, allow_loss)
            best = max(places, key=lambda url: (places[url], url == _OWN))
            if best == _OWN:
                await self.lead(epoch)
            else:
                await self._post(best, "lead", epoch)
            return Promotion(leader=best, epoch=epoch, sequence=places[best].sequence, promised=len(places))

    def _check_enough(self, states: Mapping[str, ServerState], allow_loss: bool) -> None:
        """Check that every change that was acknowledged is on one of some servers."""
        sync = min((state.sync_followers for state in states.values()), default=0)
        needed = max(1, len(self._urls)) - sync
        if len(states) < needed and not allow_loss:
            text = "too few servers are reached: an acknowledged change may be on none of them"
            text, wanted = f"{text}. Ask again once more are up", f"{needed} of {max(1, len(self._urls))} servers"
            raise TooFewFollowers(f"{text}; or give it up with `allow_loss`", expected=wanted, received=len(states))

    async def _hand_over(self, states: Mapping[str, ServerState], epoch: int) -> dict[str, Position]:
        """Have the leader promise the epoch first, where it is reached, and take what it has."""
        leaders = [url for url, state in states.items() if state.role == "leader"]
        if not leaders or leaders == [_OWN]:
            return {}
        leader = max(leaders, key=lambda url: states[url].epoch)
        place = await self._ask_promise(leader, epoch)
        runtime, until = self._runtime, time.monotonic() + _HAND_OVER_S
        while runtime.following and runtime.engine.sequence < place.sequence and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return {leader: place}

    async def _ask_promise(self, url: str, epoch: int) -> Position:
        return await self.promise(epoch) if url == _OWN else Position(*await self._post(url, "promise", epoch))

    async def _find_leader(self) -> None:
        """Look for the leader of a new epoch: soon, and then as `_watch` does."""
        for patience in (0.05, 0.1, 0.2, 0.4):
            await asyncio.sleep(patience)
            await self._look(patience)

    async def _look(self, patience: float = _LOOK_S) -> None:
        """Ask the other members who leads, and follow that one."""
        if not self._urls:
            return
        states, epochs = await self._states(patience), self._log.epochs
        self._runtime.engine.replication.members = set(self._names.values())
        leading = {url: state for url, state in states.items() if state.role == "leader"}
        url = max(leading, key=lambda one: leading[one].epoch, default="")
        if self._turn.locked() or not url or leading[url].epoch < epochs.promised or url == epochs.leader:
            return
        async with self._turn:
            if epochs.open and leading[url].epoch == epochs.promised:
                _log.critical("two servers lead the same epoch: start one with --follow", extra={"other": url})
                return
            if leading[url].epoch > epochs.promised:
                await self.promise(leading[url].epoch)
            await self._follow(url)

    async def _follow(self, url: str) -> None:
        await self._stop_following()
        self._log.epochs.leader = url
        self._runtime.engine.replication.begin()
        self._runtime.following = Follower(self._runtime, url)
        _log.info("following", extra={"leader": url})

    async def _stop_following(self) -> None:
        following, self._runtime.following = self._runtime.following, None
        if following is not None:
            await following.stop()
        self._log.epochs.leader = ""

    async def _states(self, patience: float = _LOOK_S) -> dict[str, ServerState]:
        """Return the other members that are reached, by URL."""
        found = await asyncio.gather(*(self._state_of(url, patience) for url in self._urls), return_exceptions=True)
        states = {url: one for url, one in zip(self._urls, found, strict=True) if isinstance(one, ServerState)}
        others = {url: one for url, one in states.items() if one.member != self._log.epochs.member}
        self._names |= {url: one.member for url, one in others.items()}
        return others

    async def _state_of(self, url: str, patience: float) -> ServerState:
        response = await self._client.get(url + _PATH, timeout=patience)
        return ServerState.model_validate_json(response.raise_for_status().content)

    async def _post(self, url: str, what: str, epoch: int) -> Any:
        try:
            response = await self._client.post(f"{url}{_PATH}/{what}", json={"epoch": epoch})
        except httpx.TransportError as error:
            raise ServiceUnavailable(f"{url} was not reached", received=repr(error)) from None
        if not response.is_success:
            raise ServiceUnavailable(f"{url} did not {what}: promote again", received=response.text[:300])
        return response.json()
