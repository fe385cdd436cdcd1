"""Servers of one store: what waits for followers, who leads, and what becomes of an old leader's tail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.server_process import free_port
from superposed import WeightStore, seeded_secret
from superposed.errors import ConfigError
from superposed_client import Client, NotFresh
from superposed_client._core import RetryPolicy
from superposed_service.api.app import create_api
from superposed_service.api.middleware.admission import Freshness
from superposed_service.changes.snapshot import begin
from superposed_service.changes.verify import verify
from superposed_service.engine.replication import Replication
from superposed_service.errors import TooFewFollowers
from superposed_service.followers.follower import seed
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from superposed_service.storage.shipping import Place
from tests.conftest import make_directory, serving, wait_for
from tests.durability.test_recorded import unpacked
from tests.helpers.http import problem
from tests.helpers.recorded import FIRST
from tests.service.test_follower import CONFIG, X, Y, digest, register, sequence, teach
from tests.service.test_server import superposed


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superposed_service.followers.member._LOOK_S", 0.2)
    monkeypatch.setattr("superposed_service.followers.follower.WAIT_S", 0.3)
    monkeypatch.setattr("superposed_service.engine.replication._SILENT_S", 1.0)


UPDATE = {"context": "a", "inputs": X[:5].tolist(), "targets": Y[:5]}


class Cluster:
    """Three servers of one store on ports of their own, the first one its leader."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.paths = [folder / name for name in ("first", "second", "third")]
        self.ports = [free_port() for _ in self.paths]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.settings = {"members": ",".join(self.urls), **settings}
        self.stacks = [ExitStack() for _ in self.paths]
        self.http = [httpx.Client(base_url=url) for url in self.urls]
        if not self.paths[0].exists():
            make_directory(self.paths[0], CONFIG)

    def start(self, *numbers: int) -> None:
        for number in numbers:
            known: dict[str, Any] = self.settings | ({"follow": self.urls[0]} if number else {})
            with DataDirectory(self.paths[number]) as directory:
                if directory.untouched:
                    seed(directory, Settings(**known))
            self.stacks[number].enter_context(serving(self.paths[number], on_port=self.ports[number], **known))

    def stop(self, *numbers: int) -> None:
        for number in numbers:
            self.stacks[number].pop_all().close()

    def state(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.http[number].get("/v1/replication").raise_for_status().json()
        return found

    def promote(self, number: int, **body: object) -> httpx.Response:
        return self.http[number].post("/v1/replication/promote", json=body, timeout=30)

    def same(self, *numbers: int) -> None:
        """Wait until servers are equally new, and stop them: their stores are the same."""
        wait_for(lambda: len({sequence(self.http[number]) for number in numbers}) == 1)
        wait_for(lambda: all(self.http[number].get("/health/ready").status_code == 200 for number in numbers))
        self.stop(*numbers)
        assert len({digest(self.paths[number]) for number in numbers}) == 1
        for number in numbers:
            with DataDirectory(self.paths[number]) as directory:
                assert not [one for one in verify(directory) if one.remedy is not None]


@contextmanager
def cluster(folder: Path, *started: int, **settings: object) -> Iterator[Cluster]:
    made = Cluster(folder, **settings)
    try:
        made.start(*started)
        yield made
    finally:
        made.stop(0, 1, 2)
        for http in made.http:
            http.close()


def ready(made: Cluster, *numbers: int) -> None:
    for number in numbers:
        wait_for(lambda number=number: made.http[number].get("/health/ready").status_code == 200)  # type: ignore[misc]


def accepts(http: httpx.Client) -> bool:
    return http.post("/v1/tasks", json={"key": "probe", "inputs": 6, "outputs": 3}).is_success


def test_an_answer_waits_for_the_followers(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, sync_followers=1) as made:
        leader = made.http[0]
        asked = {"key": "a", "inputs": 6, "outputs": 3}
        problem(leader.post("/v1/tasks", json=asked), 503, "too-few-followers")
        assert leader.get("/v1/tasks").json()["tasks"] == []
        made.start(1)
        wait_for(lambda: accepts(leader))
        register(leader, "a")
        for answer in teach(leader, "a", 5):
            assert sequence(made.http[1]) >= answer["sequence"] - 1  # on its disk; applied a moment later
        made.stop(1)
        problem(leader.post("/v1/update", json=UPDATE, timeout=30), 503, "too-few-followers")
        assert leader.post("/v1/infer", json={"context": "a", "inputs": X[:2].tolist()}).is_success
        key = leader.post("/v1/keys", json={"scope": "admin"}, timeout=30)
        problem(key, 503, "too-few-followers")


def test_a_repeat_waits_for_the_followers_too(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1, sync_followers=1) as made:
        leader, headers = made.http[0], {"Idempotency-Key": "once"}
        wait_for(lambda: accepts(leader))
        register(leader, "a")
        first = leader.post("/v1/update", json=UPDATE, headers=headers).raise_for_status().json()
        made.stop(1)
        wait_for(lambda: leader.post("/v1/update", json=UPDATE, headers=headers, timeout=30).status_code == 503)
        made.start(1)
        wait_for(lambda: leader.post("/v1/update", json=UPDATE, headers=headers, timeout=30).is_success)
        assert leader.post("/v1/update", json=UPDATE, headers=headers).json() == first


def test_a_follower_takes_over_from_a_leader_that_is_gone(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1, 2, sync_followers=1) as made:
        wait_for(lambda: accepts(made.http[0]))
        register(made.http[0], "a")
        taught = teach(made.http[0], "a", 1, **{"Idempotency-Key": "last"}) + teach(made.http[0], "a", 4)
        made.stop(0)
        done = made.promote(1).raise_for_status().json()
        assert (done["epoch"], done["promised"]) == (2, 2)
        assert done["sequence"] >= taught[-1]["sequence"]
        new = 1 if done["leader"] in ("", made.urls[1]) else 2
        other = 3 - new
        wait_for(lambda: made.state(other)["leader"] == made.urls[new])
        repeated = {"context": "a", "inputs": X[:5].tolist(), "targets": Y[:5], "steps": 2}
        headers = {"Idempotency-Key": "last"}
        wait_for(lambda: made.http[new].post("/v1/update", json=repeated, headers=headers, timeout=30).is_success)
        answer = made.http[new].post("/v1/update", json=repeated, headers=headers)
        assert answer.json() == taught[0]
        teach(made.http[new], "a", 3)
        made.start(0)
        wait_for(lambda: made.state(0)["role"] == "follower")
        answer = made.http[0].post("/v1/update", json=UPDATE)
        problem(answer, 421, "not-leader")
        assert answer.headers["location"] == made.urls[new] + "/v1/update"
        made.same(0, 1, 2)
        made.start(new)  # it still leads, whatever it was first started as
        assert made.state(new)["role"] == "leader"


def test_the_tail_of_an_old_leader_is_kept_aside(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1, 2) as made:
        register(made.http[0], "a")
        teach(made.http[0], "a", 3)
        wait_for(lambda: {sequence(made.http[number]) for number in (1, 2)} == {4})
        made.stop(1, 2)
        headers = {"Idempotency-Key": "alone"}
        lost = made.http[0].post("/v1/update", json=UPDATE, headers=headers).raise_for_status().json()
        teach(made.http[0], "a", 2)
        made.stop(0)
        made.start(1, 2)
        answer = made.promote(1)
        problem(answer, 503, "too-few-followers")
        made.promote(1, allow_loss=True).raise_for_status()
        teach(made.http[1], "a", 1)
        made.start(0)
        wait_for(lambda: made.state(0)["role"] == "follower" and sequence(made.http[0]) == sequence(made.http[1]))
        [name] = made.state(0)["kept_aside"]
        lines = [json.loads(line) for line in (tmp_path / "first" / "aside" / name).read_text().splitlines()]
        assert [line["sequence"] for line in lines] == [5, 6, 7]
        assert (lines[0]["idempotency_key"], lines[0]["kind"]) == ("alone", "update")
        assert lines[0]["payload"]
        again = made.http[1].post("/v1/update", json=UPDATE, headers=headers).raise_for_status().json()
        assert again["sequence"] > lost["sequence"] or again != lost  # a new update: the first one is in no history
        made.same(0, 1, 2)


def test_a_leader_hands_over_while_it_runs(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1, 2, sync_followers=1) as made:
        wait_for(lambda: accepts(made.http[0]))
        register(made.http[0], "a")
        teach(made.http[0], "a", 4)
        done = superposed("promote", made.urls[2])
        assert done.returncode == 0, done.stderr
        assert "leads epoch 2" in done.stdout
        assert made.state(2)["role"] == "leader"
        wait_for(lambda: made.state(0)["leader"] == made.state(1)["leader"] == made.urls[2])
        with Client(made.urls[0]) as client:  # sent to the leader by the follower that is asked
            client.task("a").partial_fit(X[:4], Y[:4])
            assert client.task("a").predict(X[:4]) is not None
        assert not made.state(0)["kept_aside"]
        made.same(0, 1, 2)


def test_records_of_another_store_are_not_taken_for_a_tail(tmp_path: Path) -> None:
    with cluster(tmp_path, 0) as made:
        register(made.http[0], "a")
        made.promote(0, allow_loss=True).raise_for_status()
        other = tmp_path / "other"
        with DataDirectory(other) as directory:
            begin(directory, WeightStore(CONFIG, secret=seeded_secret(99)))
        with serving(other) as http:
            register(http, "mine")
            teach(http, "mine", 4)
        with serving(other, follow=made.urls[0]) as http:
            assert "another store" in str(problem(http.get("/health/ready"), 503, "not-ready")["received"])
            assert sequence(http) == 5
        assert not (other / "aside").exists()


def test_a_promise_is_kept_over_a_restart(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1) as made:
        register(made.http[0], "a")
        made.http[1].post("/v1/replication/promise", json={"epoch": 3}).raise_for_status()
        made.stop(1)
        made.start(1)
        assert made.state(1)["role"] == "waiting"
        teach(made.http[0], "a", 2)
        assert made.state(1)["epoch"] == 3
        for epoch in (2, 3):
            problem(made.http[1].post("/v1/replication/promise", json={"epoch": epoch}), 421, "not-leader")
        problem(made.http[1].post("/v1/replication/lead", json={"epoch": 4}), 421, "not-leader")
        problem(made.http[1].get("/health/ready"), 503, "not-ready")
        assert sequence(made.http[1]) < sequence(made.http[0])
        done = made.promote(1, allow_loss=True).raise_for_status().json()
        assert done["leader"] == made.urls[0]  # which has newer records
        wait_for(lambda: made.state(1)["role"] == "follower")
        made.same(0, 1)


def test_a_single_server_can_be_promoted(tmp_path: Path) -> None:
    with serving(make_directory(tmp_path / "store", CONFIG)) as http:
        register(http, "a")
        http.post("/v1/replication/promote", json={}).raise_for_status()
        teach(http, "a", 2)
        assert http.get("/v1/replication").json()["epoch"] == 2
    with serving(tmp_path / "store") as http:
        assert http.get("/v1/replication").json()["role"] == "leader"
        assert http.post("/v1/rollback", json={"to_sequence": 1}).is_success  # the epoch's record stays
        teach(http, "a", 1)


def test_a_busy_server_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, done = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        busy.set()
        done.wait(30)
        raise ConfigError("it was held")

    monkeypatch.setattr("superposed_service.runtime.model_export.retrieve_model", hold)
    with serving(make_directory(tmp_path / "store", CONFIG)) as http, ThreadPoolExecutor(1) as pool:
        register(http, "a")
        holding = pool.submit(http.get, "/v1/model", params={"context": "a"})
        assert busy.wait(30)
        try:
            assert http.get("/v1/replication", timeout=10).json()["sequence"] == 1
        finally:
            done.set()
        assert not holding.result().is_success


def test_reads_are_as_new_as_what_the_client_has_seen(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1) as made:
        register(made.http[0], "a")
        answer = made.http[0].post("/v1/update", json=UPDATE)
        token = answer.headers["x-sequence"]
        headers = {"X-Min-Sequence": token}
        asked = {"context": "a", "inputs": X[:1].tolist()}
        found = made.http[1].post("/v1/infer", json=asked, headers=headers).raise_for_status()
        assert found.json()["sequence"] >= answer.json()["sequence"]
        lineage, epoch, number = token.split(".")
        for wrong, slug in (
            (f"{lineage}.{epoch}.{int(number) + 99}", "not-fresh"),
            (f"other.{epoch}.{number}", "not-fresh"),
        ):
            refused = made.http[1].post("/v1/infer", json=asked, headers={"X-Min-Sequence": wrong}, timeout=30)
            problem(refused, 409, slug)
        for wrong in ("new", f"{lineage}.{epoch}.{'9' * 5000}"):
            problem(
                made.http[1].post("/v1/infer", json=asked, headers={"X-Min-Sequence": wrong}), 422, "invalid-request"
            )
        made.promote(1, allow_loss=True).raise_for_status()
        lost = {"X-Min-Sequence": f"{lineage}.1.{int(number) + 99}"}
        assert "lost" in problem(made.http[1].post("/v1/infer", json=asked, headers=lost), 409, "not-fresh")["detail"]


def test_an_answer_of_a_store_that_went_back_meanwhile_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(tmp_path, 0) as made:
        register(made.http[0], "a")
        lineage, epoch, number = made.http[0].post("/v1/update", json=UPDATE).headers["x-sequence"].split(".")
        monkeypatch.setattr(Freshness, "is_fresh", lambda *_: True)  # as if it had been, a moment before
        asked, headers = {"context": "a", "inputs": X[:1].tolist()}, {"X-Min-Sequence": f"{lineage}.{epoch}.{number}9"}
        problem(made.http[0].post("/v1/infer", json=asked, headers=headers | {"X-Other": "1"}), 409, "not-fresh")


def test_a_client_follows_to_the_leader_without_retries(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1) as made, Client(made.urls[1], retries=RetryPolicy(retries=0)) as client:
        client.register_task("a", inputs=6, outputs=3)
        client.keys.create("admin", name="first")
        problem(made.http[0].get("/v1/keys"), 401, "unauthenticated")


def test_a_leader_that_does_not_know_what_the_client_saw_takes_no_change(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1) as made:
        register(made.http[0], "a")
        lineage, epoch, number = made.http[0].post("/v1/update", json=UPDATE).headers["x-sequence"].split(".")
        newer = {"X-Min-Sequence": f"{lineage}.{epoch}.{int(number) + 1}"}
        for answer in (
            made.http[0].delete("/v1/tasks/a", headers=newer),
            made.http[0].post("/v1/rollback", json={"without": {"sequences": [int(number) + 1] * 2}}, headers=newer),
        ):
            problem(answer, 409, "not-fresh")
        assert sequence(made.http[0]) == int(number)


def test_the_client_says_once_that_what_it_saw_is_lost(tmp_path: Path) -> None:
    with cluster(tmp_path, 0, 1) as made, Client(made.urls[0], retries=RetryPolicy(retries=0)) as client:
        client.register_task("a", inputs=6, outputs=3)
        client.update("a", X[:5], Y[:5])
        [[epoch, token]] = client._servers._tokens.items()
        client._servers._tokens = {epoch: token + "99"}
        with pytest.raises(NotFresh):
            client.infer("a", X[:1])
        client.infer("a", X[:1])


def test_what_followers_had_in_an_earlier_turn_counts_no_more() -> None:
    async def scenario() -> None:
        replication = Replication(1)
        replication.members = {"one"}
        replication.reached(Place(9, "00", member="one"))
        await replication.wait(replication.turn, 9)
        waiting = asyncio.create_task(replication.wait(replication.turn, 10))
        await asyncio.sleep(0)
        replication.begin()  # another server leads, and then this one again
        replication.reached(Place(10, "11", member="one"))
        with pytest.raises(TooFewFollowers, match="send it again"):
            await waiting
        replication.begin()
        with pytest.raises(TooFewFollowers):
            replication.check()

    asyncio.run(scenario())


def test_others_who_read_the_journal_do_not_keep_an_answer_waiting() -> None:
    async def scenario() -> None:
        replication = Replication(1)
        replication.members = {"gone"}
        waiting = asyncio.create_task(replication.wait(replication.turn, 10))
        for _ in range(100):
            replication.reached(Place(9, "00", member="a reader that does not count"))
            await asyncio.sleep(0.02)
            if waiting.done():
                break
        with pytest.raises(TooFewFollowers, match="send it again"):
            await waiting

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_more_followers_than_there_are(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store", CONFIG)
    with DataDirectory(path) as directory, pytest.raises(ConfigError, match="more followers must have a change"):
        create_api(Settings(sync_followers=1), directory)


@pytest.mark.parametrize("name", ["killed", "rehearsing", "grouped"])
def test_a_rolling_upgrade_of_a_directory_of_the_first_release(tmp_path: Path, name: str) -> None:
    """Followers first, then one is promoted, the old leader last; a client with keys sends updates throughout."""
    [archive] = [one for one in FIRST if one.name == f"{name}.tar.xz"]
    path, _ = unpacked(archive, tmp_path)
    path.rename(tmp_path / "first")
    with cluster(tmp_path, 0, 1, 2, sync_followers=1) as made:
        wait_for(lambda: accepts(made.http[0]))
        register(made.http[0], "new")
        stopping, answers = threading.Event(), dict[str, int]()

        def send() -> None:
            with Client(made.urls[1], retries=RetryPolicy(retries=100, longest_pause_s=0.2)) as client:
                while not stopping.is_set():
                    key = f"key-{len(answers)}"
                    answers[key] = client.update("new", X[:5], Y[:5], idempotency_key=key).sequence

        sender = threading.Thread(target=send)
        sender.start()
        for number in (2, 1):
            made.stop(number)
            made.start(number)
            ready(made, number)
        made.promote(2).raise_for_status()
        wait_for(lambda: made.state(0)["role"] == "follower")
        made.stop(0)
        made.start(0)
        ready(made, 0, 1, 2)
        sent = len(answers)
        wait_for(lambda: len(answers) > sent)
        stopping.set()
        sender.join()
        made.same(0, 1, 2)
    for number in range(3):
        with DataDirectory(made.paths[number]) as directory:
            journal = directory.transaction_log().journal
            kinds = {one.sequence: one.kind for one in journal.replay(journal.horizon)}
        assert {kinds[one] for one in answers.values()} == {"update"}
        assert len(set(answers.values())) == len(answers)
