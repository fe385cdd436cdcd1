"""Rehearsal, consolidation, models learned in, contexts found: over HTTP, by the SDK, after restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, learn, seeded_secret
from superposed.config import RehearsalConfig
from superposed.store.replay_buffer import RULES_VERSION
from superposed_client import AsyncClient, Client, InvalidRequest, ShapeMismatch, UnknownTask
from superposed_service.changes.rehearsal import Consolidate, ForgetRows
from superposed_service.changes.replay import fingerprint
from superposed_service.runtime import runtime
from tests.conftest import make_directory, serving
from tests.helpers.http import problem
from tests.helpers.machine import Machine
from tests.helpers.rehearsing_config import CONFIG


def rows(count: int, task: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Rows whose class is the largest of three features; which three is the task's own."""
    x = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return x, x[:, task : task + 3].argmax(1).tolist()


def lines(seed: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.normal(size=(4, 4)), random.integers(0, 2, 4).tolist()


def teach(client: Client, task: int, updates: int = 60) -> None:
    client.register_task(f"t{task}", outputs=3)
    for number in range(updates):
        client.update(f"t{task}", *rows(32, task, 1000 * task + number))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with (
        serving(make_directory(tmp_path / "store", CONFIG), consolidation_slice=8) as http,
        Client(str(http.base_url)) as client,
    ):
        yield client


def test_what_is_kept_is_shown_and_erased(client: Client, tmp_path: Path) -> None:
    teach(client, 0, 5)
    teach(client, 1, 2)
    assert client.get_task("t0").rows_kept == 100
    assert client.get_task("t1").rows_kept == 64
    store = client.store()
    assert store.rehearsal == {
        "rows_per_task": 100, "ratio": 1.0, "own_ratio": 0.0, "least_rows": 0, "max_bytes": 2**28,
        "logit_share": 0.0,
    }  # fmt: skip
    assert store.bytes.kept_rows > 0
    client.take_snapshot()
    sequence = client.store().sequence
    client.erase_rows("t0")
    assert client.get_task("t0").rows_kept == 0
    assert client.get_task("t1").rows_kept == 64
    assert client.store().sequence == sequence + 1  # forgetting is a record
    [left] = client.list_snapshots()  # older ones held the rows
    assert left.sequence == sequence + 1
    client.erase_rows("t0")  # nothing is kept any more: nothing is recorded
    assert client.store().sequence == sequence + 1


class TestErasureReachesSnapshots:
    def test_of_a_deleted_task(self, client: Client) -> None:
        teach(client, 0, 2)
        client.take_snapshot()
        client.delete_task("t0")
        client.erase_rows("t0")
        assert [one.sequence for one in client.list_snapshots()] == [client.store().sequence]

    def test_when_the_first_try_fails_half_way(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        teach(client, 0, 2)
        client.take_snapshot()
        with monkeypatch.context() as broken:
            broken.setattr(runtime, "keep", lambda *_: 1 / 0)
            assert client._http.delete("/v1/tasks/t0/data").status_code == 500
        assert client.get_task("t0").rows_kept == 0
        client.erase_rows("t0")
        assert [one.sequence for one in client.list_snapshots()] == [client.store().sequence]

    def test_a_key_that_nobody_had_costs_no_snapshot(self, client: Client) -> None:
        teach(client, 0, 1)
        before = client.list_snapshots()
        problem(client._http.delete("/v1/tasks/nobody/data"), 404, "unknown-task")
        assert client.list_snapshots() == before


class TestConsolidation:
    def test_slices_are_records(self, client: Client) -> None:
        teach(client, 0)
        teach(client, 1)
        sequence = client.store().sequence
        done = client.consolidate(20)
        assert set(done.before) == set(done.after) == {"t0", "t1"}
        slices = done.sequence - sequence
        assert slices == 3 if done.accepted else 1 <= slices <= 3
        assert done.steps <= 20
        assert np.mean(list(done.after.values())) >= np.mean(list(done.before.values()))
        again = client.consolidate(20)
        assert again.sequence > done.sequence

    def test_the_same_request_counts_once(self, client: Client) -> None:
        teach(client, 0, 3)
        teach(client, 1, 3)
        http = client._http
        headers = {"Idempotency-Key": "c1"}
        first, second = (http.post("/v1/consolidate", json={"steps": 9}, headers=headers) for _ in range(2))
        assert first.status_code == 200
        assert first.json() == second.json()
        assert client.store().sequence == first.json()["sequence"]

    def test_nothing_to_rehearse(self, client: Client) -> None:
        with pytest.raises(InvalidRequest, match="no kept rows"):
            client.consolidate(1)
        problem(client._http.post("/v1/consolidate", json={"steps": 0}), 422, "invalid-request")


class TestReplay:
    def test_a_recovery_arrives_at_the_same_store(self, tmp_path: Path) -> None:
        config = plain_config(
            network=MLPConfig(inputs=4, hidden=(6,), outputs=2),
            optimizer=OptimizerConfig(learning_rate=1e-2),
            rehearsal=RehearsalConfig(rows_per_task=10),
        )
        machine = Machine(tmp_path / "store", config=config)
        for key in "ab":
            machine.register(key)
        for number in range(12):
            machine.update("ab"[number % 2], *lines(number))
            if number == 6:
                machine.snapshot()
        judged = machine.do(Consolidate(5))
        assert judged["accepted"]
        assert machine.do(ForgetRows("a")) == {"rows": 10}
        machine.update("b", *lines(99))
        digest = machine.store.digest()
        machine.crash()
        assert machine.store.digest() == digest
        assert machine.store.replay_buffer.rows_kept("a") == 0
        # Without one update the decision stays what it was.
        machine.roll_back(sequences=(9, 9))
        without = machine.store.digest()
        assert without != digest
        machine.crash()
        assert machine.store.digest() == without
        assert judged["sequence"] == 15


class TestLearningModels:
    def test_learn_model_teaches_what_it_answers(self, client: Client) -> None:
        sample = rows(300, 0, 5)[0]
        pick = client.task("copy", outputs=3)
        assert pick.learn_model(lambda x: x[:, :3].argmax(1), sample, epochs=30) > 0.8
        line = client.task("line", outputs=1, loss="mse")
        assert line.learn_model(lambda x: x.mean(1), sample, epochs=40) > 0.5
        assert client.get_task("copy").rows_seen == 240 * 30

    def test_learn_model_moves_a_task_between_stores(self, client: Client, tmp_path: Path) -> None:
        teach(client, 0)
        with serving(make_directory(tmp_path / "other", CONFIG)) as http, Client(str(http.base_url)) as other:
            copy = other.task("copy", outputs=3)
            known = client.task("t0")

            def answer(x: np.ndarray) -> np.ndarray:
                return np.concatenate([known.predict(part) for part in np.split(x, 10)])

            assert copy.learn_model(answer, rows(300, 0, 5)[0], epochs=20) > 0.85
            x, y = rows(64, 0, 6)
            assert abs(copy.score(x, y) - float(client.evaluate("t0", x, y).accuracy or 0)) < 0.15

    def test_learn_model_with_other_answers_than_rows_learns_nothing(self, client: Client) -> None:
        for wrong, sample in ((lambda x: x[:3, 0], rows(9, 0, 1)[0]), (lambda x: x[:, 0], rows(4, 0, 1)[0])):
            with pytest.raises(ValueError, match="answers to 5 rows or more"):
                client.task("copy", outputs=3).learn_model(wrong, sample)
        with pytest.raises(UnknownTask):
            client.get_task("copy")


class TestLocating:
    def test_by_rows_alone(self, client: Client) -> None:
        teach(client, 0)
        teach(client, 3)
        client.register_task("line", outputs=1, loss="mse")
        x, y = rows(48, 3, 77)
        assert client.locate(x, y).best == "t3"
        assert client.locate(x, y, candidates=["t0", "mix(t0:0.9,t3:0.1)"]).best != "t3"
        found = client.locate(x)
        assert {score.context for score in found.scores} == {"t0", "t3"}  # an mse task has no energy
        answer = client.infer("auto", x)
        assert answer.located == found.scores[0]
        named = client.infer(found.best, x)
        assert answer.labels == named.labels
        plain = client._http.post("/v1/infer", json={"context": "auto", "inputs": x.tolist()}).json()
        assert plain["located"]["context"] == found.best

    def test_an_exponent(self, client: Client) -> None:
        client.register_task("drift", outputs=3)
        for number in range(60):
            for exponent, task in ((0.5, 0), (3.0, 3)):
                client.update(f"drift^{exponent}", *rows(32, task, number))
        x, y = rows(64, 3, 99)
        best = client.locate(x, y, exponent_of="drift", exponents=(0, 4)).best
        assert abs(float(best.removeprefix("drift^")) - 3.0) < 0.3

    def test_the_async_client(self, client: Client) -> None:
        teach(client, 0, 2)
        teach(client, 3, 2)

        async def ask() -> None:
            async with AsyncClient(str(client._http.base_url)) as other:
                assert (await other.locate(*rows(4, 0, 1))).best in {"t0", "t3"}
                assert (await other.consolidate(1)).steps <= 1

        asyncio.run(ask())

    def test_what_is_refused(self, client: Client) -> None:
        http = client._http
        with pytest.raises(ShapeMismatch, match="no candidate"):
            client.locate(rows(3, 0, 1)[0])
        client.register_task("t0", outputs=3)
        for body in (
            {"candidates": []},
            {"candidates": ["t0"], "exponent_of": "t0"},
            {"exponents": [0, 1]},
            {"exponent_of": "t0", "exponents": [1, 0]},
            {"exponent_of": "t0", "exponents": [0, 65]},
        ):
            answer = http.post("/v1/locate", json={"inputs": [[0.0] * 6]} | body)
            problem(answer, 422, "invalid-request")
        for inputs in (3, [], [0.5], [[]], [[1.0, 2.0], [3.0]]):
            assert http.post("/v1/locate", json={"inputs": inputs}).status_code == 422
            assert http.post("/v1/infer", json={"inputs": inputs, "context": "auto"}).status_code == 422
        unknown = http.post("/v1/locate", json={"inputs": [[0.0] * 6], "candidates": ["nobody"]})
        problem(unknown, 404, "unknown-task")
        auto = {"context": "auto", "inputs": [[0.0] * 6], "targets": [0]}
        problem(http.post("/v1/update", json=auto), 422, "expression-invalid")  # nobody is taught by guess

    def test_too_many_candidates(self, tmp_path: Path) -> None:
        with (
            serving(make_directory(tmp_path / "store", CONFIG), max_candidate_evaluations=3) as http,
            Client(str(http.base_url)) as client,
        ):
            client.register_task("t0", outputs=3)
            client.locate(rows(3, 0, 1)[0])
            answer = http.post("/v1/locate", json={"inputs": [[0.0] * 6] * 4})
            problem(answer, 413, "batch-too-large")
            answer = http.post("/v1/locate", json={"inputs": [[0.0] * 6], "exponent_of": "t0"})
            problem(answer, 413, "batch-too-large")


def test_a_slice_of_idle_time_must_make_tasks_better() -> None:
    """If all kept rows are answered right, a slice on request is as good, and accepted."""
    config = plain_config(
        network=MLPConfig(inputs=5, hidden=(32,), outputs=3),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
        rehearsal=RehearsalConfig(rows_per_task=10),
    )
    store = WeightStore(config, secret=seeded_secret(1))
    store.register(TaskSchema(key="a", inputs=5, outputs=3))
    learn(store, "a", np.random.default_rng(0).normal(size=(10, 5)), [n % 3 for n in range(10)], steps=100)
    answer = Consolidate(2).prepare(store).entry().head["answer"]
    assert answer["before"] == {"a": 1.0}
    assert answer["accepted"]


def test_a_slice_is_judged_by_rows_that_it_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    config = plain_config(
        network=MLPConfig(inputs=5, hidden=(8,), outputs=3), rehearsal=RehearsalConfig(rows_per_task=60)
    )
    store = WeightStore(config, secret=seeded_secret(1))
    for key in "ab":
        store.register(TaskSchema(key=key, inputs=5, outputs=3))
        learn(store, key, np.random.default_rng(0).normal(size=(60, 5)), [n % 3 for n in range(60)])
    twin = WeightStore.from_bytes(store.to_bytes())
    drawn: list[set[bytes]] = []
    draw = WeightStore.draw

    def noted(self: WeightStore, *arguments: Any, **options: Any) -> Any:
        answer = draw(self, *arguments, **options)
        drawn.append({row.tobytes() for row in answer[0].inputs.numpy()})
        return answer

    monkeypatch.setattr(WeightStore, "draw", noted)
    live = Consolidate(3).prepare(store)
    judging, *learned = drawn
    assert len(drawn) == 1 + 3
    assert judging
    assert not judging & set().union(*learned)
    # Replayed from its record it learns the same.
    again = Consolidate.from_record(SimpleNamespace(head=live.entry().head))  # type: ignore[arg-type]
    live.apply(store)
    again.prepare(twin).apply(twin)
    assert store.digest() == twin.digest()


def test_of_one_kept_row_a_slice_is_judged_by_that(client: Client) -> None:
    client.register_task("a", outputs=3)
    client.update("a", [[1.0, 2, 3, 4, 5, 6]], [1])
    assert set(client.consolidate(1).before) == {"a"}


def test_other_rules_of_rehearsal_are_another_fingerprint() -> None:
    """Else a replay that keeps other rows than before would be taken for a damaged one."""
    assert fingerprint(torch.device("cpu"))["rehearsal_rules"] == RULES_VERSION
