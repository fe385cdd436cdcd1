"""A label is corrected: the old record is out, its rows are learned again, and the store says what it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema
from superposed.config import RehearsalConfig
from superposed.errors import LabelOutOfRange
from superposed.learning.online import learn
from superposed_client import Client
from superposed_service.changes.registration import Delete, Register
from superposed_service.changes.rollback import Relabel
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.update import Update
from superposed_service.changes.verify import verify
from superposed_service.errors import HistoryTruncated, InvalidRequest, UnknownUpdate
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory, serving
from tests.helpers.http import problem
from tests.helpers.machine import Machine

CONFIG = plain_config(
    network=MLPConfig(inputs=4, hidden=(8,), outputs=3),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
    rehearsal=RehearsalConfig(rows_per_task=10, ratio=1.0),
)
ROWS = np.random.default_rng(0).normal(size=(8, 2, 4))


def teach(machine: Machine, number: int, targets: list[Any], key: str = "a") -> int:
    return int(machine.do(Update(RowBatch(key, None, ROWS[number]), targets, 1))["sequence"])


def relabel(machine: Machine, sequence: int, targets: list[Any]) -> dict[str, Any]:
    change = Relabel(sequence, targets, machine.directory.snapshots, machine.writer.transaction_log)
    return machine.do(change)


def taught(path: Path, **settings: int) -> Machine:
    machine = Machine(path, config=CONFIG, canary_rows=0, **settings)
    for key, labels in (("a", ("x", "y")), ("b", (1, 2, 3))):
        schema = TaskSchema(key=key, inputs=4, outputs=len(labels), labels=labels, scaling="running")
        machine.do(Register(lambda _, schema=schema: schema))  # type: ignore[misc]
    return machine


def test_a_corrected_store_is_that_of_a_rollback_and_a_new_update(tmp_path: Path) -> None:
    machine, twin = taught(tmp_path / "store"), taught(tmp_path / "twin")
    for one in (machine, twin):
        wrong = teach(one, 0, ["x", "x"])
        teach(one, 1, [1, 2], "b")
        teach(one, 2, ["y", "x"])
    answer = relabel(machine, wrong, [None, "y"])
    assert (answer["relabelled"], answer["excluded"]) == (wrong, [[wrong, wrong]])
    assert answer["rows"] == 2
    twin.roll_back(sequences=(wrong, wrong))
    twin.store.sequence = machine.store.sequence - 1  # the same place, which decides what is rehearsed
    schema = twin.store.tasks.get("a")
    assert schema.updates == 1
    learn(twin.store, "a", ROWS[0], ["x", "y"])
    assert twin.store.digest() == machine.store.digest()
    digest = machine.store.digest()
    machine.crash()
    assert machine.store.digest() == digest
    machine.snapshot()
    machine.crash()
    assert machine.store.digest() == digest
    machine.close()
    with DataDirectory(tmp_path / "store") as directory:
        assert [one for one in verify(directory) if one.remedy is not None] == []
    twin.close()


def test_a_correction_can_be_corrected_and_rolled_back(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    first = teach(machine, 0, ["x", "x"])
    weights = {name: tensor.clone() for name, tensor in machine.store.state().items()}
    digest_updates = machine.store.tasks.get("a").updates
    second = relabel(machine, first, ["y", "y"])["sequence"]
    with pytest.raises(UnknownUpdate, match="the last correction of it"):
        relabel(machine, first, ["x", "y"])
    third = relabel(machine, second, ["x", None])["sequence"]
    assert machine.store.tasks.get("a").updates == digest_updates
    machine.roll_back(sequences=(third, third))  # what it took out comes back
    assert machine.store.tasks.get("a").updates == digest_updates
    machine.roll_back(to_sequence=first)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in machine.store.state().items())
    machine.crash()
    machine.close()


@pytest.mark.parametrize(
    ("targets", "error"),
    [(["x"], InvalidRequest), (["x", "z"], LabelOutOfRange), (["x", 1], LabelOutOfRange), ([], InvalidRequest)],
)
def test_bad_corrections_change_nothing(tmp_path: Path, targets: list[Any], error: type[Exception]) -> None:
    machine = taught(tmp_path / "store")
    sequence = teach(machine, 0, ["x", "x"])
    digest = machine.store.digest()
    with pytest.raises(error):
        relabel(machine, sequence, targets)
    assert machine.store.digest() == digest
    for other in (1, sequence + 1, 0, 10**12):
        with pytest.raises(UnknownUpdate):
            relabel(machine, other, ["x", "y"])
    assert machine.store.digest() == digest
    machine.close()


def test_beyond_the_journal_it_says_so(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store", snapshots_kept=2, history_records=0)
    sequence = teach(machine, 0, ["x", "x"])
    for number in range(1, 4):
        teach(machine, number, ["x", "y"])
        machine.snapshot()
    with pytest.raises(HistoryTruncated, match="does not reach back"):
        relabel(machine, sequence, ["y", "y"])
    machine.close()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = make_directory(tmp_path_factory.mktemp("relabel") / "store", CONFIG)
    with serving(path) as http:
        yield http


def test_over_http_and_the_sdk(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        task = client.task("sdk", labels=["cat", "dog"]).partial_fit(ROWS[0], ["cat", "cat"])
        assert task.last_update is not None
        answer = client.relabel(task.last_update.sequence, [None, "dog"])
        assert answer.relabelled == task.last_update.sequence
        assert client.get_task("sdk").updates == 1
        retry = {"targets": ["dog", None]}
        headers = {"Idempotency-Key": "once"}
        path = f"/v1/updates/{answer.sequence}/relabel"
        one = http.post(path, json=retry, headers=headers)
        assert one.status_code == 200, one.text
        assert http.post(path, json=retry, headers=headers).json() == one.json()
    problem(http.post("/v1/updates/1/relabel", json={"targets": ["cat"]}), 404, "not-found")
    problem(http.post("/v1/updates/99999/relabel", json={"targets": ["cat"]}), 404, "not-found")
    problem(http.post(path, json={"targets": "cat"}), 422, "invalid-request")
    problem(http.post("/v1/updates/x/relabel", json={"targets": ["cat"]}), 422, "invalid-request")


def test_a_correction_keeps_labels_that_the_update_added(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    rows = RowBatch("a", None, ROWS[0])
    first = int(machine.do(Update(rows, ["x", "new"], 1, grow_labels=True))["sequence"])
    for number in range(1, 4):
        teach(machine, number, ["new", "y"])
    with pytest.raises(Exception, match="more outputs"):
        machine.do(Update(rows, ["fourth", "new"], 1, grow_labels=True))
    answer = relabel(machine, first, ["y", None])
    assert answer["excluded"] == [[first, first]]
    assert machine.store.tasks.get("a").schema.labels == ("x", "y", "new")
    assert machine.store.tasks.get("a").updates == 4
    relabel(machine, first + 1, [None, "new"])
    digest = machine.store.digest()
    machine.crash()
    assert machine.store.digest() == digest
    machine.roll_back(sequences=(first, first))  # a rollback takes the label out, and what depends on it
    assert machine.store.tasks.get("a").schema.labels == ("x", "y")
    machine.close()


@pytest.mark.parametrize("context", ["a", "mix(a:0.9,b:0.1)"])
@pytest.mark.parametrize("labels", [(), ("x", "y"), ("x", "y", "new")])
def test_an_update_of_a_deleted_task_is_not_learned_by_its_successor(
    tmp_path: Path, context: str, labels: tuple[str, ...]
) -> None:
    machine = taught(tmp_path / "store")
    teach(machine, 0, [1, 2], "b")
    machine.do(Update(RowBatch("a", None, ROWS[1]), ["x", "new"], 1, grow_labels=True))
    sequence = teach(machine, 2, ["new", "y"], context)
    machine.do(Delete("a"))
    deleted = machine.store.sequence
    if labels:
        schema = TaskSchema(key="a", inputs=4, outputs=len(labels), labels=labels, scaling="running")
        machine.do(Register(lambda _: schema))
    digest = machine.store.digest()
    with pytest.raises(UnknownUpdate, match="deleted"):
        relabel(machine, sequence, [None, "x"])
    assert machine.store.digest() == digest
    machine.roll_back(sequences=(deleted, machine.store.sequence))  # the task is there again
    relabel(machine, sequence, [None, "x"])
    machine.close()
