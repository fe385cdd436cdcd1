"""Labels grow: by a request of its own, with an update, and the same after crashes, replays and rollbacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema
from superposed.config import RehearsalConfig
from superposed.errors import LabelOutOfRange, SuperposedError
from superposed.learning.online import learn
from superposed_client import Client, SchemaChanged
from superposed_service.changes.registration import Alter, Register
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.update import Update
from tests.conftest import make_directory, serving
from tests.helpers.http import problem
from tests.helpers.machine import Machine

NETWORK = MLPConfig(inputs=4, hidden=(9,), outputs=5)
ROWS = np.random.default_rng(0).normal(size=(6, 4))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    config = plain_config(network=NETWORK, optimizer=OptimizerConfig(learning_rate=1e-3))
    path = make_directory(tmp_path_factory.mktemp("growth") / "store", config)
    with serving(path) as http:
        yield http


def register(http: httpx.Client, key: str, labels: list[Any], **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/tasks", json={"key": key, "labels": labels} | more)
    assert answer.status_code in {200, 201}, answer.text
    return dict(answer.json())


def patch(http: httpx.Client, key: str, **body: Any) -> httpx.Response:
    return http.patch(f"/v1/tasks/{key}", json=body)


def test_patch_new_labels_are_added_and_the_version_counts(http: httpx.Client) -> None:
    assert register(http, "grow", ["a", "b"])["schema_version"] == 1
    grown = patch(http, "grow", add_labels=["c"], schema_version=1).json()
    assert (grown["labels"], grown["outputs"], grown["schema_version"]) == (["a", "b", "c"], 3, 2)
    taught = {"context": "grow", "inputs": ROWS[:1].tolist(), "targets": ["c"]}
    assert http.post("/v1/update", json=taught).status_code == 200
    answer = http.post("/v1/infer", json={"context": "grow", "inputs": ROWS[:1].tolist()}).json()
    assert len(answer["probabilities"][0]) == 3
    before = http.get("/v1/store").json()["sequence"]
    assert patch(http, "grow", add_labels=["a", "c"]).json()["schema_version"] == 2  # all are there
    assert http.get("/v1/store").json()["sequence"] == before
    problem(patch(http, "grow", add_labels=["d"], schema_version=1), 409, "schema-changed")
    for labels in (["a"], ["a", "b"], ["a", "b", "c"]):  # a prefix is the same schema
        assert http.post("/v1/tasks", json={"key": "grow", "labels": labels}).status_code == 200
    for labels in (["b"], ["a", "c"], ["a", "b", "c", "d"]):
        problem(http.post("/v1/tasks", json={"key": "grow", "labels": labels}), 409, "task-exists")


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ({}, "invalid-request"),
        ({"add_labels": "x"}, "invalid-request"),
        ({"add_labels": [1]}, "label-out-of-range"),
        ({"add_labels": [True]}, "label-out-of-range"),
        ({"add_labels": [None]}, "invalid-request"),
        ({"add_labels": ["u", "v", "w", "x"]}, "shape-mismatch"),
        ({"add_labels": ["x" * 300]}, "invalid-request"),
        ({"scale": [0.0] * 4}, "invalid-request"),
        ({"offset": [1.0]}, "invalid-request"),
        ({"add_labels": ["x"], "schema_version": 0}, "invalid-request"),
    ],
)
def test_patch_bad_input_changes_nothing(http: httpx.Client, body: dict[str, Any], slug: str) -> None:
    register(http, "bad", ["a", "b"])
    before = http.get("/v1/store").json()["sequence"]
    problem(http.patch("/v1/tasks/bad", json=body), 422, slug)
    assert http.get("/v1/store").json()["sequence"] == before
    problem(http.patch("/v1/tasks/none", json={"add_labels": ["x"]}), 404, "unknown-task")


def test_update_with_grow_labels_registers_them_with_the_rows(http: httpx.Client) -> None:
    register(http, "stream", [1, 2])
    body = {"context": "stream", "inputs": ROWS[:3].tolist(), "targets": [2, 7, 5]}
    problem(http.post("/v1/update", json=body), 422, "label-out-of-range")
    assert http.post("/v1/update", json=body | {"grow_labels": True}).status_code == 200
    task = http.get("/v1/tasks/stream").json()
    assert (task["labels"], task["updates"], task["schema_version"]) == ([1, 2, 7, 5], 1, 2)
    for targets in ([8, 9, 1], ["x", 1, 1], [True, 1, 1], [None, 1, 1]):  # too many outputs, other types
        answer = http.post("/v1/update", json=body | {"targets": targets, "grow_labels": True})
        assert answer.status_code == 422, answer.text
    assert http.get("/v1/tasks/stream").json() == task


def test_growth_is_refused_where_it_would_break_a_composition(http: httpx.Client) -> None:
    for key in ("p", "q"):
        register(http, key, ["a", "b"])
    register(http, "pq", ["a", "b"], composition="mix(p:0.5,q:0.5)")
    problem(patch(http, "p", add_labels=["c"]), 409, "task-in-use")
    problem(patch(http, "pq", add_labels=["c"]), 422, "composition-not-supported")
    http.delete("/v1/tasks/pq")
    asked = {"context": "mix(p:0.5,q:0.5)", "inputs": ROWS[:1].tolist()}
    assert http.post("/v1/infer", json=asked).status_code == 200
    assert patch(http, "p", add_labels=["c"]).status_code == 200
    problem(http.post("/v1/infer", json=asked), 422, "composition-not-supported")
    update = asked | {"targets": ["z"], "grow_labels": True}
    problem(http.post("/v1/update", json=update), 422, "composition-not-supported")
    assert patch(http, "q", add_labels=["c"]).status_code == 200
    assert http.post("/v1/infer", json=asked).status_code == 200
    problem(http.post("/v1/update", json=update), 422, "label-out-of-range")  # a mixture grows no task


def test_a_refitted_scaler_at_registration_is_a_change_of_the_schema(http: httpx.Client) -> None:
    register(http, "scaled", ["a", "b"], offset=[0.0] * 4, scale=[1.0] * 4)
    again = http.post(
        "/v1/tasks", json={"key": "scaled", "labels": ["a", "b"], "offset": [1.0] * 4, "scale": [2.0] * 4}
    )
    assert again.status_code == 200, again.text
    assert (again.json()["offset"], again.json()["schema_version"]) == ([1.0] * 4, 2)
    assert patch(http, "scaled", scale=[3.0] * 4).json()["scale"] == [3.0] * 4


def test_the_sdk_grows_labels(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        handle = client.task("sdk-grow", labels=["a", "b"])
        handle.partial_fit(ROWS, ["a", "b"] * 3)
        assert client.alter_task("sdk-grow", add_labels=np.array(["c"]), schema_version=1).labels == ["a", "b", "c"]
        with pytest.raises(SchemaChanged):
            client.alter_task("sdk-grow", add_labels=["d"], schema_version=1)
        client.update("sdk-grow", ROWS[:1], ["d"], grow_labels=True)
        assert client.get_task("sdk-grow").labels == ["a", "b", "c", "d"]
        handle.partial_fit(ROWS, ["a", "b", "c"] * 2)  # registered with a prefix


CONFIG = plain_config(
    network=NETWORK,
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
    rehearsal=RehearsalConfig(rows_per_task=8, ratio=1.0, logit_share=0.5),
)


def growing(machine: Machine, label: str, targets: list[str], *, grow: bool = True) -> int:
    answer = machine.do(Update(RowBatch(label, None, ROWS[: len(targets)]), targets, 1, grow_labels=grow))
    return int(answer["sequence"])


def taught(path: Path) -> Machine:
    machine = Machine(path, config=CONFIG, canary_rows=0)
    for key in ("a", "b"):
        schema = TaskSchema(key=key, inputs=4, outputs=2, labels=("x", "y"))
        machine.do(Register(lambda _, schema=schema: schema))  # type: ignore[misc]
    for _ in range(3):
        growing(machine, "a", ["x", "y", "x"])
        growing(machine, "b", ["y", "y"])
    return machine


def test_growth_survives_a_crash_and_a_snapshot_bit_for_bit(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    machine.snapshot()
    growing(machine, "a", ["z", "x"])
    machine.do(Alter("b", add_labels=["w"]))
    growing(machine, "b", ["w", "v"])
    growing(machine, "a", ["z"], grow=False)
    digest = machine.store.digest()
    machine.crash()
    assert machine.store.digest() == digest
    machine.snapshot()
    machine.crash()
    assert machine.recovery.replayed == 0
    assert machine.store.digest() == digest
    assert machine.store.tasks.get("a").schema.labels == ("x", "y", "z")
    assert machine.store.tasks.get("b").schema.labels == ("x", "y", "w", "v")
    machine.close()


def test_a_refused_update_adds_no_label(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    digest, sequence = machine.store.digest(), machine.store.sequence
    huge = RowBatch("a", None, np.full((1, 4), 3e38))
    with pytest.raises(SuperposedError):
        machine.do(Update(huge, ["new"], 1, grow_labels=True))
    assert machine.store.tasks.get("a").schema.labels == ("x", "y")
    assert machine.store.tasks.get("a").version == 1
    machine.store.sequence, after = sequence, machine.store.sequence
    assert machine.store.digest() == digest
    machine.store.sequence = after
    machine.crash()
    assert machine.store.tasks.get("a").schema.labels == ("x", "y")
    machine.close()


def test_a_rollback_takes_growth_out_and_what_depends_on_it(tmp_path: Path) -> None:
    machine, twin = taught(tmp_path / "store"), taught(tmp_path / "twin")
    first = growing(machine, "a", ["z", "x"])
    growing(machine, "a", ["x"], grow=False)
    growing(machine, "a", ["z"], grow=False)
    second = growing(machine, "a", ["q", "z"])
    answer = machine.roll_back(sequences=(first, first))
    # Old labels stay valid; what uses the label that was taken out, or was added after it, goes with it.
    assert answer["excluded"] == [[first, first], [first + 2, second]]
    assert machine.store.tasks.get("a").schema.labels == ("x", "y")
    twin.store.sequence = first  # the same place, which decides what is rehearsed
    learn(twin.store, "a", ROWS[:1], ["x"])
    twin.store.sequence = machine.store.sequence
    assert twin.store.digest() == machine.store.digest()
    with pytest.raises(LabelOutOfRange):
        growing(machine, "a", ["z"], grow=False)
    digest = machine.store.digest()
    machine.crash()
    assert machine.store.digest() == digest
    machine.close()
    twin.close()
