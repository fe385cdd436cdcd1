"""Rollback, snapshots, erasure and idempotency keys, over HTTP."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from demo.server_process import Server
from superposed_client import Client, HistoryTruncated, NotFound, UnknownTask
from superposed_service import errors
from superposed_service.storage.idempotency import IdempotencyKey
from tests.conftest import make_directory, serving
from tests.helpers.http import ROW, problem, register

UPDATE: dict[str, Any] = {"context": "digits", "inputs": [ROW, ROW], "targets": ["0", "1"]}


def logits(http: httpx.Client, context: str = "digits") -> Any:
    body = {"context": context, "inputs": [ROW], "return": ["logits"]}
    return http.post("/v1/infer", json=body).json()["logits"]


def sequence(http: httpx.Client) -> int:
    found: int = http.get("/v1/store").json()["sequence"]
    return found


class TestRollback:
    def test_to_a_sequence_number_and_forth_again(self, http: httpx.Client) -> None:
        register(http)
        before = logits(http)
        for _ in range(3):
            http.post("/v1/update", json=UPDATE)
        after = logits(http)
        answer = http.post("/v1/rollback", json={"to_sequence": 1}).json()
        assert answer == {"sequence": 5, "rebuilt_from": 0, "excluded": [[2, 4]]}
        assert logits(http) == before
        task = http.get("/v1/tasks/digits").json()
        assert (task["updates"], task["last_sequence"]) == (0, 1)
        assert http.post("/v1/rollback", json={"to_sequence": 4}).json()["excluded"] == [[5, 5]]
        assert logits(http) == after
        assert http.post("/v1/update", json=UPDATE).json()["sequence"] == 7

    def test_without_a_task_or_a_range(self, http: httpx.Client) -> None:
        register(http)
        register(http, "other")
        clean = logits(http)
        http.post("/v1/update", json=UPDATE | {"context": "other"})
        http.post("/v1/update", json=UPDATE | {"context": "mix(digits:1,other:1)"})
        answer = http.post("/v1/rollback", json={"without": {"task": "other"}}).json()
        assert answer["excluded"] == [[3, 4]]
        assert logits(http) == clean
        http.post("/v1/update", json=UPDATE)
        answer = http.post("/v1/rollback", json={"without": {"sequences": [6, 6]}}).json()
        assert answer["excluded"] == [[6, 6]]
        assert logits(http) == clean
        nothing = {"sequence": 7, "rebuilt_from": None, "excluded": []}
        assert http.post("/v1/rollback", json={"to_sequence": 7}).json() == nothing

    @pytest.mark.parametrize(
        ("body", "status", "slug"),
        [
            ({}, 422, "invalid-request"),
            ({"to_sequence": 0, "without": {"task": "digits"}}, 422, "invalid-request"),
            ({"to_sequence": -1}, 422, "invalid-request"),
            ({"to_sequence": 1.5}, 422, "invalid-request"),
            ({"to_sequence": 99}, 422, "invalid-request"),
            ({"without": {}}, 422, "invalid-request"),
            ({"without": {"sequences": [2, 1]}}, 422, "invalid-request"),
            ({"without": {"sequences": [1, 99]}}, 422, "invalid-request"),
            ({"without": {"task": "nobody"}}, 404, "unknown-task"),
        ],
    )
    def test_mistakes(self, http: httpx.Client, body: object, status: int, slug: str) -> None:
        register(http)
        problem(http.post("/v1/rollback", json=body), status, slug)
        assert sequence(http) == 1

    def test_a_snapshot_is_restored(self, http: httpx.Client) -> None:
        register(http)
        http.post("/v1/update", json=UPDATE)
        snapshot, before = http.post("/v1/snapshots").json(), logits(http)
        http.post("/v1/update", json=UPDATE)
        answer = http.post(f"/v1/snapshots/{snapshot['id']}/restore").json()
        assert answer["excluded"] == [[3, 3]]
        assert logits(http) == before
        problem(http.post("/v1/snapshots/nothing/restore"), 404, "not-found")


class TestIdempotency:
    def test_the_same_request_again_is_answered_and_not_applied(self, http: httpx.Client) -> None:
        register(http)
        header = {"Idempotency-Key": "k-1"}
        first = http.post("/v1/update", json=UPDATE, headers=header).json()
        after = logits(http)
        assert http.post("/v1/update", json=UPDATE, headers=header).json() == first
        assert logits(http) == after
        assert sequence(http) == first["sequence"]
        other = UPDATE | {"targets": ["1", "1"]}
        problem(http.post("/v1/update", json=other, headers=header), 422, "idempotency-mismatch")
        problem(http.delete("/v1/tasks/digits", headers=header), 422, "idempotency-mismatch")

    def test_what_has_changed_since_refuses_no_request_that_comes_again(
        self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither the effect of the request itself nor a journal that was trimmed since refuses it."""
        register(http, key="people")
        register(http, key="ann", group="people", labels=[str(n) for n in range(9)])
        header = [{"Idempotency-Key": f"k-{number}"} for number in range(4)]
        update = http.post("/v1/update", json=UPDATE | {"context": "ann"}).json()["sequence"]
        requests = [
            ("POST", f"/v1/updates/{update}/relabel", {"targets": ["3", "4"]}),
            ("PATCH", "/v1/tasks/people/ann", {"add_labels": ["9"]}),
            ("POST", "/v1/quarantine", {"source": "ann"}),
            ("DELETE", "/v1/tasks/people/ann", None),
        ]
        first = [http.request(*one[:2], json=one[2], headers=key) for one, key in zip(requests, header, strict=True)]
        assert [answer.status_code for answer in first] == [200, 200, 200, 204]
        before = sequence(http)

        def trimmed(*_: object, **__: object) -> None:
            raise errors.HistoryTruncated("the journal does not reach back")

        monkeypatch.setattr("superposed_service.api.v1.routes.history.update_head", trimmed)
        again = [http.request(*one[:2], json=one[2], headers=key) for one, key in zip(requests, header, strict=True)]
        assert [answer.content for answer in again] == [answer.content for answer in first]
        assert sequence(http) == before

    def test_a_refusal_is_an_answer_too(self, http: httpx.Client) -> None:
        register(http, scaling="none")
        header = {"Idempotency-Key": "k-2"}
        huge = UPDATE | {"inputs": [[1e30] * 64] * 2}
        first = problem(http.post("/v1/update", json=huge, headers=header), 422, "update-refused")
        assert sequence(http) == 3
        again = problem(http.post("/v1/update", json=huge, headers=header), 422, "update-refused")
        assert again == first
        assert sequence(http) == 3

    def test_tasks(self, http: httpx.Client) -> None:
        body = {"key": "t", "outputs": 2}
        for _ in range(2):
            answer = http.post("/v1/tasks", json=body, headers={"Idempotency-Key": "register"})
            assert (answer.status_code, answer.json()["last_sequence"]) == (201, 1)
        for _ in range(2):
            answer = http.delete("/v1/tasks/t", headers={"Idempotency-Key": "delete"})
            assert answer.status_code == 204
        problem(http.delete("/v1/tasks/t", headers={"Idempotency-Key": "other"}), 404, "unknown-task")

    def test_the_query_is_part_of_the_request(self, http: httpx.Client) -> None:
        register(http)
        header = {"Idempotency-Key": "q"}
        first = http.post("/v1/update?a=1", json=UPDATE, headers=header).json()
        assert http.post("/v1/update?a=1", json=UPDATE, headers=header).json() == first
        for query in ("", "?a=2"):
            answer = http.post(f"/v1/update{query}", json=UPDATE, headers=header)
            problem(answer, 422, "idempotency-mismatch")
        # As journals had it before the query counted.
        plain = IdempotencyKey.of("q", None, "POST", "/v1/update", b"{}")
        assert plain == IdempotencyKey("q", hashlib.sha256(b"POST /v1/update\n{}").digest())

    def test_secrets_are_not_kept_to_be_shown_again(self, http: httpx.Client) -> None:
        header = {"Idempotency-Key": "secret"}
        for path in ("/v1/keys", "/v1/keys/any/rotate"):
            refused = http.post(path, json={"scope": "admin"}, headers=header)
            assert "Idempotency-Key" in problem(refused, 422, "invalid-request")["detail"]
        assert http.get("/v1/keys").json() == []

    def test_a_key_is_a_key(self, http: httpx.Client) -> None:
        register(http)
        for key in ("", "a b", "k" * 256):
            answer = http.post("/v1/update", json=UPDATE, headers={"Idempotency-Key": key})
            problem(answer, 422, "invalid-request")

    def test_a_hundred_copies_at_once_are_applied_once(self, http: httpx.Client) -> None:
        register(http)
        answers: list[httpx.Response] = []

        def send() -> None:
            header = {"Idempotency-Key": "many"}
            answers.append(http.post("/v1/update", json=UPDATE, headers=header, timeout=60))

        threads = [threading.Thread(target=send) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = Counter(answer.status_code for answer in answers)
        assert found[200] + found[409] == 100
        assert found[200] >= 1
        assert {answer.json()["sequence"] for answer in answers if answer.status_code == 200} == {2}
        assert sequence(http) == 2

    def test_across_a_restart(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        rows = np.ones((2, 3))
        with Server(path) as server, server.client() as client:
            client.register_task("t", outputs=2, inputs=3)
            first = client.update("t", rows, [0, 1], idempotency_key="again")
        with Server(path) as server, server.client() as client:
            assert client.update("t", rows, [0, 1], idempotency_key="again") == first
            assert client.store().sequence == first.sequence


class TestErasure:
    def test_the_rows_are_gone_from_the_disk(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        marked = np.random.default_rng(0).integers(0, 256, (16, 64))  # nothing to compress
        files = [path / "journal.db", path / "journal.db-wal"]
        with Server(path) as server, server.client() as client:
            client.register_task("t", outputs=2, inputs=64)
            client.register_task("kept", outputs=2, inputs=64)
            client.update("t", marked, [1] * 16)
            client.update("kept", 255 - marked, [1] * 16)

            def on_the_disk(row: Any) -> bool:
                text = row.astype(np.uint8).tobytes()[:20]
                return any(text in file.read_bytes() for file in files)

            assert on_the_disk(marked[0])
            before = client.infer("t", marked).probabilities
            client.erase_rows("t")
            assert not on_the_disk(marked[0])
            assert on_the_disk(255 - marked[0])
            assert client.infer("t", marked).probabilities == before
            client.erase_rows("t")
            with pytest.raises(UnknownTask):
                client.erase_rows("nobody")
            assert client.roll_back(task="t").excluded == [(3, 3)]
        with Server(path) as server, server.client() as client:
            assert client.get_task("kept").updates == 1

    def test_what_would_need_them_is_refused(self, server: Server) -> None:
        with server.client() as client:
            client.task("private", outputs=2).partial_fit(np.ones((2, 3)), [0, 1])
            middle = client.store().sequence
            client.task("later", outputs=2).partial_fit(np.ones((2, 3)), [0, 1])
            client.erase_rows("private")
            with pytest.raises(HistoryTruncated, match="were erased"):
                client.roll_back(sequences=(middle + 1, middle + 1))


def test_the_client_rolls_back(server: Server) -> None:
    with Client(server.url) as client:
        task = client.task("undone", outputs=2).partial_fit(np.ones((2, 3)), [0, 1])
        before = task.predict_proba(np.ones((1, 3))).tolist()
        snapshot = client.take_snapshot()
        for _ in range(3):
            task.partial_fit(np.ones((2, 3)), [0, 0])
            client.restore_snapshot(snapshot.id)
            assert task.predict_proba(np.ones((1, 3))).tolist() == before
        task.partial_fit(np.ones((2, 3)), [0, 0])
        assert client.roll_back(to_sequence=snapshot.sequence).rebuilt_from is not None
        assert task.predict_proba(np.ones((1, 3))).tolist() == before
        with pytest.raises(NotFound):
            client.restore_snapshot("nothing")


def test_snapshots_come_by_themselves_and_the_journal_is_trimmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_directory(tmp_path / "store")
    for name, value in (("SNAPSHOT_RECORDS", "20"), ("HISTORY_RECORDS", "10"), ("SNAPSHOTS_KEPT", "2")):
        monkeypatch.setenv(f"SUPERPOSED_{name}", value)
    with Server(path) as server, server.client() as client:
        task = client.task("t", outputs=2)
        deadline = time.monotonic() + 30
        while client.store().journal.horizon == 0:
            assert time.monotonic() < deadline
            task.partial_fit(np.ones((2, 3)), [0, 1])
        found = client.list_snapshots()
        assert 2 <= len(found) <= 3
        assert client.store().journal.horizon == found[0].sequence
        with pytest.raises(HistoryTruncated):
            client.roll_back(to_sequence=0)
        with pytest.raises(HistoryTruncated, match="beginning of task t"):
            client.roll_back(task="t")
        assert client.roll_back(to_sequence=found[-1].sequence).rebuilt_from == found[-1].sequence


def test_taking_an_update_back_leaves_what_other_tasks_evaluations_have_shown(tmp_path: Path) -> None:
    rows, labels = [[0.5] * 12, [-0.5] * 12], [0, 1]
    with serving(make_directory(tmp_path / "store")) as http, Client(str(http.base_url)) as client:
        for key in ("mine", "other"):
            client.register_task(key, inputs=12, outputs=2)
            client.update(key, rows, labels)
            client.evaluate(key, rows, labels)
        shown = {key: client.evaluations(key) for key in ("mine", "other")}
        wrong = client.update("mine", rows, labels).sequence
        client.evaluate("mine", rows, labels)
        client.roll_back(sequences=(wrong, wrong))
        assert {key: client.evaluations(key) for key in shown} == shown
        relabelled = client.update("mine", rows, labels).sequence
        client.relabel(relabelled, [1, 0])
        assert client.evaluations("other") == shown["other"]
        client.roll_back(to_sequence=1)
        assert client.evaluations("mine") == []
