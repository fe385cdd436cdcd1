"""A follower is the same store as its leader, answers reads, and takes over all that makes a leader."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from pydantic import SecretStr

from demo.server_process import Server
from superposed import OptimizerConfig, StoreConfig, WeightStore, seeded_secret
from superposed.config import MLPConfig, RehearsalConfig
from superposed_client import Client
from superposed_service.changes.replay import recover
from superposed_service.changes.verify import verify
from superposed_service.engine.writer import Writer
from superposed_service.followers.follower import difference, seed
from superposed_service.runtime.runtime import Runtime
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory, serving, wait_for
from tests.helpers.http import problem

CONFIG = StoreConfig(
    network=MLPConfig(inputs=6, hidden=(9,), outputs=3, expansion=2),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    rehearsal=RehearsalConfig(rows_per_task=20),
)
X = np.random.default_rng(0).normal(size=(40, 6))
Y = X[:, :3].argmax(1).tolist()


@contextmanager
def following(path: Path, leader: httpx.Client, key: str = "", **settings: object) -> Iterator[httpx.Client]:
    url = str(leader.base_url)
    known: dict[str, Any] = {"follow": url, "follow_api_key": SecretStr(key), **settings}
    with DataDirectory(path) as directory:
        if directory.untouched:
            seed(directory, Settings(**known))
    with serving(path, **known) as http:
        yield http


@contextmanager
def pair(tmp_path: Path, **settings: object) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with ExitStack() as stack:
        leader = stack.enter_context(serving(make_directory(tmp_path / "leader", CONFIG), **settings))
        yield leader, stack.enter_context(following(tmp_path / "follower", leader))


def sequence(http: httpx.Client) -> int:
    return int(http.get("/v1/store").raise_for_status().json()["sequence"])


def caught_up(leader: httpx.Client, follower: httpx.Client) -> None:
    wait_for(lambda: sequence(follower) == sequence(leader))


def digest(path: Path) -> str:
    with DataDirectory(path) as directory:
        return recover(directory.snapshots, directory.transaction_log(), "cpu")[0].digest()


def teach(http: httpx.Client, key: str, updates: int, **headers: str) -> list[dict[str, Any]]:
    found = []
    for number in range(updates):
        rows = slice(number * 5 % 40, number * 5 % 40 + 5)
        body = {"context": key, "inputs": X[rows].tolist(), "targets": Y[rows], "steps": 2}
        found.append(http.post("/v1/update", json=body, headers=headers).raise_for_status().json())
    return found


def register(http: httpx.Client, key: str, **schema: object) -> None:
    http.post("/v1/tasks", json={"key": key, "inputs": 6, "outputs": 3, **schema}).raise_for_status()


def test_every_kind_of_change_crosses(tmp_path: Path) -> None:
    with pair(tmp_path) as (leader, follower):
        for key in ("a", "b", "gone"):
            register(leader, key)
            teach(leader, key, 4)
        register(leader, "member", group="people")
        teach(leader, "member", 2)
        taught = teach(leader, "a", 3)[-1]["sequence"]
        new = {"targets": [2, None, 0, None, 1]}
        leader.post(f"/v1/updates/{taught}/relabel", json=new).raise_for_status()
        leader.delete("/v1/tasks/gone").raise_for_status()
        leader.post("/v1/rollback", json={"without": {"sequences": [3, 4]}}).raise_for_status()
        leader.post("/v1/quarantine", json={"source": "b", "reason": "a test"}).raise_for_status()
        assert leader.post("/v1/update", json={"context": "b", "inputs": X[:5].tolist(), "targets": Y[:5]}).is_error
        leader.delete("/v1/quarantine/b").raise_for_status()
        teach(leader, "b", 3)
        leader.post("/v1/consolidate", json={"steps": 4}).raise_for_status()
        caught_up(leader, follower)
        for context in ("a", "b", "member", "mix(a:0.5,b:0.5)"):
            asked = {"context": context, "inputs": X[:8].tolist(), "return": ["logits"]}
            answers = [one.post("/v1/infer", json=asked).raise_for_status().json() for one in (leader, follower)]
            assert answers[0] == answers[1]
        assert leader.get("/v1/tasks").json() == follower.get("/v1/tasks").json()
    assert digest(tmp_path / "leader") == digest(tmp_path / "follower")
    canaries = []
    for name in ("leader", "follower"):
        with DataDirectory(tmp_path / name) as directory:
            assert not [one for one in verify(directory) if one.remedy is not None]
            kept = directory.transaction_log().canaries
            canaries.append({key: dict(kept[key]) for key in kept.keys()})  # noqa: SIM118 - not a mapping's
    assert canaries[0] == canaries[1] != {}


def test_digests_are_compared_on_the_way(tmp_path: Path) -> None:
    with pair(tmp_path) as (leader, follower):
        register(leader, "a")
        teach(leader, "a", 300)
        caught_up(leader, follower)
        teach(leader, "a", 1)
        caught_up(leader, follower)
        assert follower.get("/health/ready").status_code == 200
    noted = []
    for name in ("leader", "follower"):
        with DataDirectory(tmp_path / name) as directory:
            noted.append(directory.transaction_log().journal.digests(0))
    assert noted[0][256] == noted[1][256]


def test_another_store_is_found_out(tmp_path: Path) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(serving(make_directory(tmp_path / "leader", CONFIG)))
        register(leader, "a")
        with following(tmp_path / "follower", leader) as follower:
            caught_up(leader, follower)
        with serving(tmp_path / "follower") as alone:  # started without its leader, it leads, and goes its own way
            teach(alone, "a", 2)
        register(leader, "other")
        teach(leader, "other", 2)
        follower = stack.enter_context(following(tmp_path / "follower", leader))
        answer = problem(follower.get("/health/ready"), 503, "not-ready")
        assert "not the leader's" in str(answer["received"])


def test_changes_are_for_the_leader(tmp_path: Path) -> None:
    with pair(tmp_path) as (leader, follower):
        register(leader, "a")
        teach(leader, "a", 2)
        caught_up(leader, follower)
        update = {"context": "a", "inputs": X[:2].tolist(), "targets": Y[:2]}
        asked = [
            ("POST", "/v1/update", update),
            ("POST", "/v1/tasks", {"key": "b", "outputs": 2}),
            ("PATCH", "/v1/tasks/a", {"offset": [0.0] * 6}),
            ("DELETE", "/v1/tasks/a", None),
            ("POST", "/v1/rollback", {"to_sequence": 1}),
            ("POST", "/v1/updates/2/relabel", {"targets": [0] * 5}),
            ("POST", "/v1/quarantine", {"source": "a", "reason": "a test"}),
            ("POST", "/v1/consolidate", {"steps": 2}),
            ("POST", "/v1/keys", {"scope": "admin"}),
            ("DELETE", "/v1/tasks/a/data", None),
        ]
        for method, path, body in asked:
            answer = problem(follower.request(method, path, json=body), 421, "not-leader")
            assert str(leader.base_url).rstrip("/") in str(answer["expected"])
        assert sequence(follower) == sequence(leader) == 3
        with Client(str(follower.base_url)) as client:  # sends changes to the leader that the follower names
            client.task("a").partial_fit(X[:2], Y[:2])
        assert sequence(leader) == 4
        follower.post("/v1/snapshots").raise_for_status()  # its own


def test_answers_to_repeats_cross_so_that_a_follower_can_lead(tmp_path: Path) -> None:
    with pair(tmp_path) as (leader, follower):
        register(leader, "a")
        headers = {"Idempotency-Key": "once"}
        update = {"context": "a", "inputs": X[:5].tolist(), "targets": Y[:5]}
        first = leader.post("/v1/update", json=update, headers=headers).raise_for_status().json()
        caught_up(leader, follower)
    with serving(tmp_path / "follower") as promoted:
        assert promoted.post("/v1/update", json=update, headers=headers).json() == first
        other = promoted.post("/v1/update", json={**update, "targets": [0] * 5}, headers=headers)
        problem(other, 422, "idempotency-mismatch")
        teach(promoted, "a", 1)


def test_api_keys_cross_and_their_end(tmp_path: Path) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(serving(make_directory(tmp_path / "leader", CONFIG)))
        admin = {"Authorization": "Bearer " + leader.post("/v1/keys", json={"scope": "admin"}).json()["key"]}
        made = {
            scope: leader.post("/v1/keys", json={"scope": scope}, headers=admin).json()
            for scope in ("replicate", "infer", "update")
        }
        narrow = leader.post("/v1/keys", json={"scope": "replicate", "tasks": "a*"}, headers=admin)
        problem(narrow, 422, "invalid-request")
        for scope in ("infer", "update"):
            key = {"Authorization": f"Bearer {made[scope]['key']}"}
            problem(leader.get("/v1/replication/snapshot", headers=key), 403, "forbidden")
        problem(leader.get("/v1/replication/snapshot"), 401, "unauthenticated")
        follower = stack.enter_context(following(tmp_path / "follower", leader, made["replicate"]["key"]))
        replicates = {"Authorization": f"Bearer {made['replicate']['key']}"}
        problem(follower.get("/v1/tasks", headers=replicates), 403, "forbidden")
        problem(follower.get("/v1/tasks"), 401, "unauthenticated")
        infers = {"Authorization": f"Bearer {made['infer']['key']}"}
        assert follower.get("/v1/tasks", headers=infers).status_code == 200
        leader.delete(f"/v1/keys/{made['infer']['id']}", headers=admin).raise_for_status()
        wait_for(lambda: follower.get("/v1/tasks", headers=infers).status_code == 401)


def test_a_follower_that_lost_its_leader_answers_no_api_key(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with serving(make_directory(tmp_path / "leader", CONFIG)) as leader:
            key = leader.post("/v1/keys", json={"scope": "admin"}).json()["key"]
            follower = stack.enter_context(following(tmp_path / "follower", leader, key, follow_timeout_s=1.0))
            admin = {"Authorization": f"Bearer {key}"}
            assert follower.get("/v1/tasks", headers=admin).status_code == 200
        wait_for(lambda: follower.get("/v1/tasks", headers=admin).status_code == 503)
        problem(follower.get("/health/ready"), 503, "not-ready")


def test_without_api_keys_reads_go_on_while_the_leader_is_away(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with serving(make_directory(tmp_path / "leader", CONFIG)) as leader:
            register(leader, "a")
            teach(leader, "a", 2)
            follower = stack.enter_context(following(tmp_path / "follower", leader, follow_timeout_s=0.5))
        wait_for(lambda: follower.get("/health/ready").status_code == 503)
        asked = {"context": "a", "inputs": X[:2].tolist()}
        assert follower.post("/v1/infer", json=asked).status_code == 200


@contextmanager
def leader_past_its_follower(tmp_path: Path) -> Iterator[httpx.Client]:
    """A leader whose journal was trimmed past a follower that is down."""
    settings = {"history_records": 0, "snapshots_kept": 2}
    with serving(make_directory(tmp_path / "leader", CONFIG), **settings) as leader:
        register(leader, "a")
        with following(tmp_path / "follower", leader) as follower:
            caught_up(leader, follower)
        for _ in range(4):
            teach(leader, "a", 3)
            leader.post("/v1/snapshots").raise_for_status()
        yield leader


def test_a_follower_away_past_the_history_begins_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(leader_past_its_follower(tmp_path))
        with following(tmp_path / "follower", leader) as follower:
            caught_up(leader, follower)
            teach(leader, "a", 2)
            caught_up(leader, follower)
            assert follower.get("/v1/store").json()["journal"]["horizon"] > 1
        leader.post("/v1/snapshots").raise_for_status()
    assert digest(tmp_path / "leader") == digest(tmp_path / "follower")


def test_a_crash_while_it_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(leader_past_its_follower(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "go_on", lambda *_: 1 / 0)  # as if it had ended there
            with following(tmp_path / "follower", leader) as follower:
                assert follower.get("/health/ready").status_code == 503
        follower = stack.enter_context(following(tmp_path / "follower", leader))
        caught_up(leader, follower)
        teach(leader, "a", 2)
        caught_up(leader, follower)
        assert follower.get("/health/ready").status_code == 200


def test_erased_rows_are_gone_at_the_follower_too(tmp_path: Path) -> None:
    secret = [[0.123456789, 7.77, 6.66, 5.55, 4.44, 3.33]]
    with pair(tmp_path) as (leader, follower):
        register(leader, "a", scaling="none")  # running statistics of one row are the row
        leader.post("/v1/update", json={"context": "a", "inputs": secret, "targets": [0]}).raise_for_status()
        caught_up(leader, follower)
        leader.delete("/v1/tasks/a/data").raise_for_status()
        caught_up(leader, follower)
        needle = np.asarray(secret, dtype=np.float64).tobytes()[:16]

        def holding() -> list[Path]:
            files = [path for path in (tmp_path / "follower").rglob("*") if path.is_file()]
            narrow = np.asarray(secret, dtype=np.float32).tobytes()[:8]
            return [path for path in files if needle in (data := path.read_bytes()) or narrow in data]

        wait_for(lambda: not holding())


def test_a_shipment_does_not_fit_another_journal(tmp_path: Path) -> None:
    with serving(make_directory(tmp_path / "leader", CONFIG)) as leader:
        register(leader, "a")
        for after, chain in ((0, "00"), (1, "00" * 32), (99, "00" * 32)):
            answer = leader.get("/v1/replication/records", params={"after": after, "chain": chain})
            problem(answer, 422, "invalid-request")


def test_a_rollback_to_before_the_follower_began(tmp_path: Path) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(serving(make_directory(tmp_path / "leader", CONFIG)))
        register(leader, "a")
        teach(leader, "a", 6)
        leader.post("/v1/snapshots").raise_for_status()
        with following(tmp_path / "follower", leader) as follower:
            assert sequence(follower) == 7
            leader.post("/v1/rollback", json={"without": {"sequences": [3, 4]}}).raise_for_status()
            caught_up(leader, follower)
            teach(leader, "a", 2)
            caught_up(leader, follower)
            assert follower.get("/health/ready").status_code == 200
    assert digest(tmp_path / "leader") == digest(tmp_path / "follower")


def test_rows_that_came_after_an_erasure_stay(tmp_path: Path) -> None:
    with pair(tmp_path) as (leader, follower):
        register(leader, "a")
        teach(leader, "a", 2)
        leader.delete("/v1/tasks/a/data").raise_for_status()
        after = [one["sequence"] for one in teach(leader, "a", 3)]
        leader.delete("/v1/tasks/a/data").raise_for_status()
        last = [one["sequence"] for one in teach(leader, "a", 2)]
        caught_up(leader, follower)
    for name in ("leader", "follower"):
        with DataDirectory(tmp_path / name) as directory:
            journal = directory.transaction_log().journal
            # A follower that was behind at the erasure began again, from a snapshot after it.
            assert journal.with_payload([*after, *last]) == [one for one in last if one > journal.horizon], name


def test_an_erasure_is_finished_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(serving(make_directory(tmp_path / "leader", CONFIG)))
        register(leader, "a")
        taught = [one["sequence"] for one in teach(leader, "a", 3)]

        async def nothing(_: Runtime) -> None:
            pass

        with monkeypatch.context() as patch:
            patch.setattr(Runtime, "finish_erasures", nothing)  # as if it had ended before
            with following(tmp_path / "follower", leader) as follower:
                caught_up(leader, follower)
                leader.delete("/v1/tasks/a/data").raise_for_status()
                caught_up(leader, follower)
        with DataDirectory(tmp_path / "follower") as directory:
            assert directory.transaction_log().journal.with_payload(taught) == taught
        with following(tmp_path / "follower", leader) as follower:
            caught_up(leader, follower)
        with DataDirectory(tmp_path / "follower") as directory:
            assert directory.transaction_log().journal.with_payload(taught) == []


def test_a_follower_that_stopped_following_answers_no_api_key(tmp_path: Path) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(serving(make_directory(tmp_path / "leader", CONFIG)))
        key = leader.post("/v1/keys", json={"scope": "admin"}).json()["key"]
        admin = {"Authorization": f"Bearer {key}"}
        with following(tmp_path / "follower", leader, key):
            pass
        for path, name in ((tmp_path / "follower", "own"), (tmp_path / "leader", "other")):
            with ExitStack() as alone:
                http = leader if name == "other" else alone.enter_context(serving(path))
                body = {"key": name, "inputs": 6, "outputs": 3}
                http.post("/v1/tasks", json=body, headers=admin).raise_for_status()
        follower = stack.enter_context(following(tmp_path / "follower", leader, key))
        assert "not the leader's" in str(problem(follower.get("/health/ready"), 503, "not-ready")["received"])
        problem(follower.get("/v1/tasks", headers=admin), 503, "not-ready")


@pytest.mark.parametrize("mode", ["replay", "snapshots"])
def test_a_follower_with_other_arithmetic_measures_how_far_it_is(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        leader = stack.enter_context(serving(make_directory(tmp_path / "leader", CONFIG)))
        register(leader, "a")
        with monkeypatch.context() as patch:
            patch.setattr("superposed_service.changes.replay._cpu_model", lambda: "another processor")
            follower = stack.enter_context(following(tmp_path / "follower", leader, follow_mode=mode))
        teach(leader, "a", 3)
        caught_up(leader, follower)
        with caplog.at_level("WARNING", "superposed.follower"):
            leader.post("/v1/snapshots").raise_for_status()
            teach(leader, "a", 1)
            wait_for(lambda: any("to rounding" in record.message for record in caplog.records))
        [record] = [record for record in caplog.records if "to rounding" in record.message]
        assert vars(record)["difference"] == 0.0  # it is the same processor
        anew = mode == "snapshots"
        wait_for(lambda: (follower.get("/v1/store").json()["journal"]["horizon"] == 4) == anew)
        caught_up(leader, follower)


def test_a_follower_that_waits_for_its_leader_ends_when_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(make_directory(tmp_path / "leader", CONFIG)) as leader:
        with DataDirectory(tmp_path / "follower") as directory:
            seed(directory, Settings(follow=leader.url))
        assert leader._process is not None
        leader._process.send_signal(signal.SIGSTOP)  # it takes connections, and answers nothing
        try:
            monkeypatch.setenv("SUPERPOSED_FOLLOW", leader.url)
            command = [sys.executable, "-c", "from superposed_service.cli.main import main; main()"]
            process = subprocess.Popen([*command, "serve", str(tmp_path / "follower"), "--port", "0"])
            time.sleep(6)  # it has begun to follow
            process.terminate()
            began = time.monotonic()
            process.wait(30)
            assert time.monotonic() - began < 5
        finally:
            leader._process.send_signal(signal.SIGCONT)


def test_the_difference_of_stores_is_relative() -> None:
    one, two = (WeightStore(CONFIG, secret=seeded_secret(0)) for _ in range(2))
    assert difference(one, two) == 0.0
    with torch.no_grad():
        next(iter(two.network.parameters())).mul_(1 + 1e-3)
    assert 1e-4 < difference(one, two) < 1e-2
