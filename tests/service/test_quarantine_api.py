"""Quarantine over HTTP and by the SDK."""

from __future__ import annotations

import httpx
import pytest

from superposed_client import Client, Quarantined, UnknownTask
from tests.helpers.http import ROW, problem, register

UPDATE = {"context": "digits", "inputs": [ROW], "targets": ["0"]}


def test_updates_are_recorded_and_not_learned_from(http: httpx.Client) -> None:
    register(http)
    register(http, "other")
    http.post("/v1/update", json=UPDATE)
    answer = http.post("/v1/quarantine", json={"source": "digits", "reason": "looks odd"})
    assert answer.json() == {"source": "digits", "since": 4}
    headers = {"Idempotency-Key": "held-1"}
    for _ in range(2):  # asked again, it is still refused and recorded once
        held = http.post("/v1/update", json=UPDATE, headers=headers)
        assert problem(held, 423, "quarantined")["received"] == "digits"
    assert http.get("/v1/store").json()["sequence"] == 5
    both = UPDATE | {"context": "mix(other:0.9,digits:0.1)"}
    problem(http.post("/v1/update", json=both), 423, "quarantined")
    assert http.post("/v1/update", json=UPDATE | {"context": "other"}).status_code == 200
    assert http.post("/v1/infer", json={"context": "digits", "inputs": [ROW]}).status_code == 200
    task = http.get("/v1/tasks/digits").json()
    assert (task["updates"], task["quarantined"]) == (1, 4)
    assert http.get("/v1/quarantine").json() == [
        {"source": "digits", "since": 4, "reason": {"by": "request", "text": "looks odd"}}
    ]
    assert http.delete("/v1/quarantine/digits").status_code == 204
    assert http.get("/v1/quarantine").json() == []
    assert http.post("/v1/update", json=UPDATE).json()["sequence"] == 9


def test_a_deleted_key_stays_in_quarantine(http: httpx.Client) -> None:
    register(http)
    http.post("/v1/quarantine", json={"source": "digits"})
    http.delete("/v1/tasks/digits")
    register(http)
    problem(http.post("/v1/update", json=UPDATE), 423, "quarantined")


def test_only_what_there_is(http: httpx.Client) -> None:
    problem(http.post("/v1/quarantine", json={"source": "nobody"}), 404, "unknown-task")
    problem(http.post("/v1/quarantine", json={"source": "key:nobody"}), 404, "not-found")
    problem(http.post("/v1/quarantine", json={"sauce": "digits"}), 422, "invalid-request")
    assert http.delete("/v1/quarantine/nobody").status_code == 204
    assert http.get("/v1/store").json()["sequence"] == 0  # nothing to record


def test_the_sdk(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        client.register_task("digits", labels=list("0123456789"), keep_rows=False)
        assert not client.get_task("digits").keep_rows
        since = client.quarantine("digits", reason="odd").since
        with pytest.raises(Quarantined):
            client.update("digits", [ROW], ["0"])
        [entry] = client.list_quarantine()
        assert (entry.source, entry.since, entry.reason) == ("digits", since, {"by": "request", "text": "odd"})
        client.release("digits")
        assert client.update("digits", [ROW], ["0"]).rows == 1
        with pytest.raises(UnknownTask):
            client.quarantine("nobody")
