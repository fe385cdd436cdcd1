"""Cells: starts, leaders to follow, and configurations."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.server_process import Server
from superposed.errors import ConfigError
from superposed_client import Client
from superposed_client.models import ServerState
from superposed_service.cluster.actors import Coordinator, followed, newest_leader, place_of
from superposed_service.cluster.config import ClusterConfig, read_config
from superposed_service.errors import NotReady
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory, serving, wait_for
from tests.helpers.http import problem
from tests.service.test_promotion import accepts, cluster, ready
from tests.service.test_server import superposed

LEADER = "http://a"


def server(*, holds: bool = False, runs: bool = False, url: str = "http://first") -> dict[str, Any]:
    return {"url": url, "holds": holds, "runs": runs}


@pytest.mark.parametrize(
    ("number", "found", "leader", "expected"),
    [
        (0, [server(), server(), server()], "", ""),  # the first start: a new store
        (1, [server(), server(), server()], "", None),
        (1, [server(holds=True, runs=True), server(), server()], LEADER, LEADER),
        (0, [server(), None, server()], "", None),  # the one that is missing may hold the store
        (0, [server(), server(holds=True), server()], "", None),  # its disk is new: never a new store
        (0, [server(), server(holds=True, runs=True), server()], LEADER, LEADER),
        (2, [server(holds=True, runs=True), None, server()], LEADER, None),  # a missing one may know a newer epoch
        (0, [server(holds=True), None, None], "", ""),  # it knows its epoch itself
        (1, [None, server(holds=True), None], "", None),
        (1, [server(), server(holds=True), None], "", "http://first"),
        (1, [None, server(holds=True), None], LEADER, LEADER),
    ],
)
def test_a_server_follows_a_leader_begins_a_store_or_waits(
    number: int, found: list[dict[str, Any] | None], leader: str, expected: str | None
) -> None:
    assert followed(number, found, leader) == expected


def test_a_server_that_is_placed_elsewhere_takes_the_store_that_is_there(tmp_path: Path) -> None:
    """After all nodes are lost, a new Ray cluster places servers anew; their directories stay where they are."""
    assert place_of(tmp_path / "a", 0) == tmp_path / "a" / "0"  # nothing is there yet
    make_directory(tmp_path / "a" / "1")
    (tmp_path / "a" / "0").mkdir()  # begun, and empty
    assert place_of(tmp_path / "a", 0) == tmp_path / "a" / "1"
    assert place_of(tmp_path / "a", 1) == tmp_path / "a" / "1"
    with DataDirectory(tmp_path / "a" / "1"):  # a server has it
        assert place_of(tmp_path / "a", 0) == tmp_path / "a" / "0"
    make_directory(tmp_path / "a" / "0")
    assert place_of(tmp_path / "a", 0) == tmp_path / "a" / "0"


class Actor:
    """An actor of a server, in place of one of Ray's: it notes that it was stopped."""

    def __init__(self, name: str, done: list[str]) -> None:
        self._name, self._done, self.stop = name, done, self

    async def remote(self) -> None:
        self._done.append(f"{self._name} stopped")


@pytest.mark.parametrize("promoted", [True, False])
def test_a_server_that_leads_is_stopped_once_another_one_leads(promoted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop, where Ray runs the coordinator's methods."""
    done: list[str] = []

    async def promote(cell: str, urls: list[str], client: httpx.AsyncClient) -> bool:
        done.append(f"one of {urls} promoted")
        return promoted

    made = object.__new__(Coordinator)
    made._config = ClusterConfig(cells=["a"], servers=2)
    made._actors, made._drained = {"a": [Actor("0", done), Actor("1", done)]}, set()
    made._urls = {"a": ["http://10.0.0.1:1", "http://10.0.0.2:2"]}
    roles = zip(made._urls["a"], ("leader", "follower"), strict=True)
    made._states = {"a": [{"url": url, "reached": True, "role": role} for url, role in roles]}
    monkeypatch.setattr(made, "_promote", promote)
    asked = ["one of ['http://10.0.0.2:2'] promoted"]
    if not promoted:
        for change in (made.restart("a", 0), made.drain("10.0.0.1")):
            with pytest.raises(NotReady, match="could be made its leader"):
                asyncio.run(change)
        assert (done, made._drained) == (2 * asked, set())
        return
    asyncio.run(made.restart("a", 1))
    asyncio.run(made.restart("a", 0))
    assert done == ["1 stopped", *asked, "0 stopped"]
    assert asyncio.run(made.drain("10.0.0.1")) == ["a-0"]
    assert made._drained == {("a", 0)}


def test_the_leader_of_the_newest_epoch_leads() -> None:
    def state(role: str, epoch: int) -> ServerState:
        more = {"member": "m", "sequence": 1, "leader": "", "members": [], "sync_followers": 0, "kept_aside": []}
        return ServerState(role=role, epoch=epoch, **more)

    states = {"a": state("leader", 1), "b": state("leader", 2), "c": state("follower", 3), "d": None}
    assert newest_leader(states) == "b"
    assert newest_leader({"a": None}) == ""


def test_a_configuration_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"

    def read(text: str) -> ClusterConfig:
        file.write_text(text)
        return read_config(file)

    config = read('cells = ["a", "b"]\nservers = 3\nsync_followers = 1\n[settings]\ncanary_rows = 0\n')
    assert [config.port_of("b", number) for number in range(3)] == [8103, 8104, 8105]
    environment = config.environment(["http://x", "http://y"], "http://x")
    assert environment["SUPERPOSED_MEMBERS"] == "http://x,http://y"
    assert environment["SUPERPOSED_SYNC_FOLLOWERS"] == "1"
    assert environment["SUPERPOSED_CANARY_ROWS"] == "0"
    for text, wrong in (
        ("cells = []", "cells"),
        ("cells = 3", "cells"),
        ('cells = ["a"]\nservers = 1\nsync_followers = 1', "more followers"),
        ('cells = ["a"]\n[patterns]\n"x-*" = "b"', "unknown cells"),
        ('cells = ["a"]\nno_such = 1', "no_such"),
        ("cells = [", "cluster.toml"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            read(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


def test_commands_say_what_is_missing(tmp_path: Path) -> None:
    done = superposed("cluster", "up", str(tmp_path / "none.toml"))
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    done = superposed("cluster", "move", "a", "b", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "ingress" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_of_a_store_moves_to_another_address(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1, 2, sync_followers=1) as made:
        ready(made, 0, 1, 2)
        wait_for(lambda: accepts(made.http[0]))
        elsewhere = [*made.urls[:2], "http://127.0.0.1:1"]
        for http in made.http[:2]:
            state = http.post("/v1/replication/members", json={"members": elsewhere}).raise_for_status().json()
            assert state["members"] == elsewhere
        fewer = made.http[0].post("/v1/replication/members", json={"members": made.urls[:2]})
        problem(fewer, 422, "invalid-request")
        made.stop(0)
        problem(made.promote(1), 503, "too-few-followers")  # of three servers only one is reached at these addresses
        made.http[1].post("/v1/replication/members", json={"members": made.urls}).raise_for_status()
        assert made.promote(1).raise_for_status().json()["epoch"] == 2


def test_ready_says_who_leads(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1) as made:
        ready(made, 0, 1)
        roles = [httpx.get(f"{url}/health/ready").json()["role"] for url in made.urls[:2]]
        assert roles == ["leader", "follower"]


def test_a_new_store_begins_with_the_key_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, wrong = f"sp-{'0' * 12}-{'x' * 43}", "secret"
    for number in (1, 2):
        monkeypatch.setenv("SUPERPOSED_FIRST_API_KEY", first)
        with Server(tmp_path / str(number)) as server:
            with Client(server.url, api_key=first) as client:
                client.register_task("a", inputs=4, outputs=2)
                assert [one.name for one in client.keys.list()] == ["first"]
            assert httpx.get(f"{server.url}/v1/tasks").status_code == 401
    monkeypatch.setenv("SUPERPOSED_FIRST_API_KEY", wrong)
    done = superposed("serve", str(tmp_path / "3"))
    assert done.returncode == 1
    assert "SUPERPOSED_FIRST_API_KEY" in done.stderr
    assert wrong not in done.stderr


def test_keys_go_from_cell_to_cell_with_their_revocation(tmp_path: Path) -> None:
    with serving(make_directory(tmp_path / "a", seed=1)) as a, serving(make_directory(tmp_path / "b", seed=2)) as b:
        given = {"id": "0" * 12, "secret": "x" * 43}
        admin = a.post("/v1/keys", json={"scope": "admin", "given": given}).raise_for_status().json()
        b.post("/v1/keys", json={"scope": "admin", "given": given}).raise_for_status()
        for http in (a, b):
            http.headers["Authorization"] = f"Bearer {admin['key']}"
        problem(a.post("/v1/keys", json={"scope": "infer", "given": given}), 422, "invalid-request")
        tenant = a.post("/v1/keys", json={"scope": "update", "tasks": "t*"}).json()
        own = {"Authorization": f"Bearer {tenant['key']}"}
        for revoked in (False, True):
            if revoked:
                a.delete(f"/v1/keys/{tenant['id']}").raise_for_status()
            keys = a.get("/v1/replication/api-keys").raise_for_status().json()
            assert b.post("/v1/replication/api-keys", json={"api_keys": keys}).json() == 1
            assert b.post("/v1/replication/api-keys", json={"api_keys": keys}).json() == 0
            assert b.get("/v1/tasks", headers=own).status_code == (401 if revoked else 200)
        problem(b.post("/v1/replication/api-keys", json={"api_keys": [{"id": 1}]}), 422, "invalid-request")
