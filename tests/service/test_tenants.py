"""Limits of one tenant, and the parts of other tenants that stay hidden from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from superposed_client import Client, Quarantined
from superposed_service.api.v1.serializers import explain_quarantine
from superposed_service.changes.quarantine import Quarantine
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory, serving
from tests.helpers.api_keys import make
from tests.helpers.http import ROW, problem
from tests.helpers.machine import Machine

UPDATE = {"inputs": [ROW] * 2, "targets": [0, 1]}


class Tenants:
    """An administrator, and two tenants with a pattern of their own."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.admin = make(http, "admin")
        http.headers.update(self.admin)
        self.a, self.b = (make(http, "update", tasks=f"{name}-*") for name in "ab")

    def register(self, key: str, who: dict[str, str], **more: object) -> httpx.Response:
        return self.http.post("/v1/tasks", json={"key": key, "outputs": 2} | more, headers=who)

    def teach(self, key: str, who: dict[str, str]) -> httpx.Response:
        return self.http.post("/v1/update", json=UPDATE | {"context": key}, headers=who)

    def evaluate(self, key: str) -> float:
        answer = self.http.post("/v1/evaluate", json=UPDATE | {"context": key}).json()
        return float(answer["accuracy"])


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    with serving(make_directory(tmp_path / "store"), max_tasks_per_key=3) as http:
        yield Tenants(http)


def test_one_key_cannot_take_all_tasks(tenants: Tenants) -> None:
    for number in range(3):
        more = {"composition": "mix(a-0:0.5,a-1:0.5)"} if number == 2 else {}
        assert tenants.register(f"a-{number}", tenants.a, **more).status_code == 201
    refused = problem(tenants.register("a-3", tenants.a), 409, "limit-reached")
    assert "SUPERPOSED_MAX_TASKS_PER_KEY" in str(refused["expected"])
    assert tenants.register("a-0", tenants.a).status_code == 200  # it is there already
    assert tenants.register("b-0", tenants.b).status_code == 201
    assert tenants.http.delete("/v1/tasks/a-2", headers=tenants.a).status_code == 204
    assert tenants.register("a-3", tenants.a).status_code == 201
    assert {one["key"] for one in tenants.http.get("/v1/tasks").json()["tasks"]} == {"a-0", "a-1", "a-3", "b-0"}


def test_a_group_that_is_made_counts_as_a_task(tenants: Tenants) -> None:
    for number in range(2):
        assert tenants.register(f"a-{number}", tenants.a).status_code == 201
    problem(tenants.register("a-2", tenants.a, group="a-group"), 409, "limit-reached")
    assert tenants.http.get("/v1/tasks/a-group").status_code == 404
    assert tenants.register("a-2", tenants.a, group="a-0").status_code == 201  # it is there already


def test_the_bound_holds_after_a_restart_and_in_a_replay(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    with serving(path, max_tasks_per_key=2) as http:
        tenants = Tenants(http)
        for number in range(2):
            tenants.register(f"a-{number}", tenants.a)
    machine = Machine(path)
    machine.crash()
    machine.close()
    with serving(path, max_tasks_per_key=2) as http:
        http.headers.update(tenants.admin)
        tenants.http = http
        problem(tenants.register("a-2", tenants.a), 409, "limit-reached")
    with DataDirectory(path) as directory:
        assert directory.transaction_log().journal.sequence == 2


def test_a_tenant_is_shown_its_own(tenants: Tenants) -> None:
    tenants.register("a-0", tenants.a)
    tenants.register("b-0", tenants.b)
    for _ in range(3):
        assert tenants.teach("b-0", tenants.b).status_code == 200
    tenants.teach("a-0", tenants.a)
    accuracies = {key: tenants.evaluate(key) for key in ("a-0", "b-0")}
    for who, key, newest in ((tenants.a, "a-0", 6), (tenants.b, "b-0", 5)):
        store = tenants.http.get("/v1/store", headers=who).json()
        assert (store["tasks"], store["sequence"], store["journal"]["sequence"]) == (1, newest, newest)
        assert store["recovery"]["snapshot"] == ""
        capacity = tenants.http.get("/v1/capacity", headers=who).json()
        assert (capacity["tasks"], capacity["mean_accuracy"]) == (1, accuracies[key])
        assert "tasks_left" not in capacity
    store = tenants.http.get("/v1/store").json()
    assert (store["tasks"], store["sequence"]) == (2, 6)
    assert tenants.http.get("/v1/capacity").json()["tasks"] == 2


def test_a_quarantined_client_is_told_why_and_how_it_ends(tenants: Tenants) -> None:
    tenants.register("a-0", tenants.a)
    tenants.teach("a-0", tenants.a)
    asked = {"source": "a-0", "reason": "flipped labels"}
    tenants.http.post("/v1/quarantine", json=asked)
    held = problem(tenants.teach("a-0", tenants.a), 423, "quarantined")
    assert "since record 3" in str(held["detail"])
    assert "flipped labels" in str(held["detail"])
    key = tenants.a["Authorization"].removeprefix("Bearer ")
    with (
        Client(str(tenants.http.base_url), api_key=key) as client,
        pytest.raises(Quarantined, match=r"client\.release\('a-0'\)"),
    ):
        client.update("a-0", UPDATE["inputs"], UPDATE["targets"])


def test_the_detectors_evidence_names_only_tasks_that_one_may_name(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    for key in ("mine", "theirs", "bad"):
        machine.register(key)
    evidence = {"by": "guard", "sequences": [4, 40], "limit": 0.3, "rise": 0.62, "tasks": ["mine", "theirs"]}
    machine.do(Quarantine("bad", evidence))
    said = explain_quarantine(machine.writer, "bad", lambda key: key == "mine")
    assert "harmed mine, 1 of other API keys by 0.62" in said
    assert "within records 4 to 40" in said
    assert "theirs" not in said
    machine.do(Quarantine("mine", evidence | {"rise": "inf"}))  # as release 0.1.0 wrote it
    assert "by inf (limit 0.30)" in explain_quarantine(machine.writer, "mine", lambda _: True)
    machine.close()
