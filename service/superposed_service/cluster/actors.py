"""Ray actors: one for each server of a cell, and the coordinator that starts them and promotes.

They keep nothing that is not on the servers' disks: which server leads, and in which epoch, the servers say themselves;
where tasks are, their journals say. Ray places them, and starts them again where a node or a process has died.
"""

import asyncio
import contextlib
import ctypes
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import ray

from superposed.errors import SuperposedError
from superposed_client.models import ServerState
from superposed_service.cluster.config import API_KEY, ClusterConfig
from superposed_service.errors import NotReady
from superposed_service.followers.connection import client_options
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

_log = logging.getLogger("superposed.cluster")
_HEAD = "node:__internal_head__"  # Ray's name of a resource that only the head node has
_LOOK_S, _GONE_S, _ANSWER_S, _AGAIN_S, _STOP_S = 0.25, 1.5, 1.0, 5.0, 60.0


class CellServer:
    """One server of a cell: a process of `superposed serve` on the node where Ray has placed this actor."""

    def __init__(self, config: ClusterConfig, cell: str, number: int) -> None:
        self._directory = place_of(Path(os.path.expandvars(config.directory)) / cell, number)
        self._port = config.port_of(cell, number)
        node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray has no annotation there
        self.url = f"http://{node}:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -math.inf

    def state(self) -> dict[str, Any]:
        """Return its URL, whether its process runs, and whether its directory holds a store."""
        runs = self._process is not None and self._process.poll() is None
        return {"url": self.url, "runs": runs, "holds": any(self._directory.glob("snapshots/*"))}

    def start(self, settings: Mapping[str, str]) -> None:
        """Start the process, unless that was tried just now; it ends with this actor. Settings are variables."""
        if time.monotonic() < self._started + _AGAIN_S:
            return
        self._started = time.monotonic()
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", "from superposed_service.cli.main import main; main()"]
        command += ["serve", str(self._directory), "--port", str(self._port)]
        command += [] if API_KEY in settings else ["--allow-unauthenticated"]
        with self._directory.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, env=os.environ | settings, stdout=log, stderr=log, preexec_fn=_end_with_parent
            )

    def stop(self) -> None:
        """Stop the process, and wait until it has ended."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
            self._process.kill()
            self._process = None


def place_of(folder: Path, number: int) -> Path:
    """Return a server's directory in its cell's folder; while that is empty, one whose store no server has."""
    own = folder / str(number)
    for one in sorted({path.parent.parent for path in folder.glob("*/snapshots/*")}, key=lambda one: one != own):
        with contextlib.suppress(SuperposedError), DataDirectory.existing(one):
            return one
    return own


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Coordinator:
    """Looks at the servers four times a second; starts those that do not run, and promotes where no server leads."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._actors = {cell: [actor_of(config, cell, at) for at in range(config.servers)] for cell in config.cells}
        self._urls = {cell: [""] * config.servers for cell in config.cells}
        self._states: dict[str, list[dict[str, Any]]] = {cell: [] for cell in config.cells}
        self._drained: set[tuple[str, int]] = set()
        self._led = dict.fromkeys(config.cells, time.monotonic())  # when a leader of the cell was last reached
        threading.Thread(target=lambda: asyncio.run(self._watch()), daemon=True).start()

    def urls(self) -> dict[str, list[str]]:
        """Return the URLs of each cell's servers, as far as they are known."""
        return {cell: [url for url in urls if url] for cell, urls in self._urls.items()}

    def table(self) -> list[dict[str, Any]]:
        """Return the state of each server, as of the newest look."""
        states = self._states.items()
        return [{"cell": cell, "server": number, **one} for cell, found in states for number, one in enumerate(found)]

    async def _watch(self) -> None:
        async with httpx.AsyncClient(**client_options(Settings(), "")) as client:
            while True:
                tended = (self._tend(cell, client) for cell in self._config.cells)
                for done in await asyncio.gather(*tended, return_exceptions=True):
                    if isinstance(done, Exception):
                        _log.error("a cell was not looked at", exc_info=done)
                await asyncio.sleep(_LOOK_S)

    async def _tend(self, cell: str, client: httpx.AsyncClient) -> None:
        """Look at one cell, and do what is to be done there."""
        found = await asyncio.gather(*(_asked(actor) for actor in self._actors[cell]))
        urls = [one["url"] if one else url for one, url in zip(found, self._urls[cell], strict=True)]
        states = await asyncio.gather(*(_server_state(client, url) for url in urls))
        pairs = list(zip(urls, states, strict=True))
        self._urls[cell], reached = urls, {url: state for url, state in pairs if state}
        facts = [state.model_dump() if state else {} for state in states]
        self._states[cell] = [{"url": url, "reached": bool(one), **one} for url, one in zip(urls, facts, strict=True)]
        members = urls if self._config.servers > 1 else []
        if leader := newest_leader(reached):
            self._led[cell] = time.monotonic()
        for number, one in enumerate(found if all(urls) else ()):
            down = one and not one["runs"] and (cell, number) not in self._drained
            if down and (follow := followed(number, found, leader)) is not None:
                await self._actors[cell][number].start.remote(self._config.environment(members, follow))
        if not leader and reached and time.monotonic() - self._led[cell] > _GONE_S:
            await self._promote(cell, list(reached), client)
        for url, state in reached.items():
            if members and state.members != members:
                await client.post(f"{url}/v1/replication/members", json={"members": members})

    async def _promote(self, cell: str, urls: list[str], client: httpx.AsyncClient) -> bool:
        for url in urls:
            with contextlib.suppress(httpx.TransportError):
                answer = await client.post(f"{url}/v1/replication/promote", json={})
                _log.warning("promotion", extra={"cell": cell, "asked": url, "answer": answer.text[:300]})
                if answer.is_success:
                    return True
        return False

    def share_keys(self) -> None:
        """Give all cells the API keys of the first one, of which one that was added later has none but the first."""
        with httpx.Client(**client_options(Settings(), "")) as client:
            first, *others = (one["url"] for one in self.table() if one.get("role") == "leader")
            keys = client.get(f"{first}/v1/replication/api-keys").raise_for_status().json()
            for url in others if keys else ():
                client.post(f"{url}/v1/replication/api-keys", json={"api_keys": keys}).raise_for_status()

    async def restart(self, cell: str, number: int) -> None:
        """Stop a server of a cell, another one leading before (else `NotReady`); the next look starts it again."""
        await self._hand_over(cell, number)
        await self._actors[cell][number].stop.remote()

    async def drain(self, address: str) -> list[str]:
        """Stop the servers of a node, others leading before; return them. They stay stopped until `undrain`."""
        servers = [(cell, number, url) for cell, urls in self._urls.items() for number, url in enumerate(urls)]
        on_node = [(cell, number) for cell, number, url in servers if f"//{address}:" in url]
        for cell, number in on_node:
            await self._hand_over(cell, number)
            self._drained.add((cell, number))
            await self._actors[cell][number].stop.remote()
        return [f"{cell}-{number}" for cell, number in on_node]

    def undrain(self) -> None:
        """Start again what a drain has stopped."""
        self._drained.clear()

    async def _hand_over(self, cell: str, number: int) -> None:
        """Have another server lead, where there is one and this one does."""
        states = self._states[cell]
        others = [one["url"] for place, one in enumerate(states) if place != number and one["reached"]]
        if states[number].get("role") != "leader" or self._config.servers < 2:
            return
        async with httpx.AsyncClient(**client_options(Settings(), "")) as client:
            if await self._promote(cell, others, client):
                return
        raise NotReady(f"no other server of cell {cell} could be made its leader", received=f"{others}")


def newest_leader(states: Mapping[str, ServerState | None]) -> str:
    """Return the URL of the leader of the newest epoch; an empty text for none."""
    leading = {state.epoch: url for url, state in states.items() if state is not None and state.role == "leader"}
    return leading[max(leading)] if leading else ""


def followed(number: int, found: list[dict[str, Any] | None], leader: str) -> str | None:
    """Return the URL that a server is to follow at its start: an empty text for none, None where it has to wait.

    A directory that holds a store knows its own epoch; only at the first start does the first server lead. An empty
    one begins with the leader's snapshot, and only where every other server is reached: one that is missing may have
    promised a newer epoch than the leader's. A new store is begun where all are reached, and none holds one.
    """
    mine, first = found[number], found[0]
    if mine is not None and mine["holds"]:
        return leader or ("" if number == 0 else first["url"] if first else None)
    if not all(found):
        return None
    if leader:
        return leader
    return "" if number == 0 and not any(one and (one["holds"] or one["runs"]) for one in found) else None


async def _asked(actor: Any) -> dict[str, Any] | None:
    """Return an actor's state; None where it does not answer in time."""
    try:
        state: dict[str, Any] = await asyncio.wait_for(asyncio.wrap_future(actor.state.remote().future()), _ANSWER_S)
    except (TimeoutError, ray.exceptions.RayError):
        return None
    return state


async def _server_state(client: httpx.AsyncClient, url: str) -> ServerState | None:
    if not url:
        return None
    try:
        answer = await client.get(f"{url}/v1/replication", timeout=_ANSWER_S)
    except httpx.TransportError:
        return None
    return ServerState.model_validate_json(answer.content) if answer.is_success else None


def actor_of(config: ClusterConfig, cell: str, number: int) -> Any:
    """Return the actor of a server, placed and made where it is not there."""
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(placed(config, cell), number)
    how = {"num_cpus": config.cpus, "scheduling_strategy": strategy}
    return _made(CellServer, f"{cell}-{number}", config, how).remote(config, cell, number)


def _made(kind: type, name: str, config: ClusterConfig, how: Mapping[str, Any]) -> Any:
    """Return a maker of an actor that outlives what made it, or is there already."""
    kept = {name: value for name, value in os.environ.items() if name == API_KEY}
    known = {"name": name, "namespace": config.name, "lifetime": "detached", "runtime_env": {"env_vars": kept}}
    return ray.remote(kind).options(**known, get_if_exists=True, max_restarts=-1, **how)


def placed(config: ClusterConfig, cell: str) -> Any:
    """Return the placement group of a cell: its servers on nodes of their own, where there are as many nodes."""
    name = f"{config.name}-{cell}"
    try:
        return ray.util.get_placement_group(name)
    except ValueError:
        known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no annotation there
        nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) >= config.cpus for node in known)
        strategy = "STRICT_SPREAD" if nodes >= config.servers else "SPREAD"
        return ray.util.placement_group([{"CPU": config.cpus}] * config.servers, strategy, name, lifetime="detached")


def coordinator(config: ClusterConfig) -> Any:
    """Return the coordinator, made where it is not there: on the head node, so that it is not lost with a server."""
    how = {"resources": {_HEAD: 0.001}, "num_cpus": 0, "max_concurrency": 4}
    return _made(Coordinator, "coordinator", config, how).remote(config)
