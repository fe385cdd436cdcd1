"""Rows by name: any order, holes, unseen categories, dates; over HTTP, from the SDK, and after a crash."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema
from superposed.config import RehearsalConfig
from superposed_client import Client, ShapeMismatch
from superposed_service.changes.registration import Register
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.update import Update
from tests.conftest import make_directory, serving
from tests.helpers.http import problem
from tests.helpers.machine import Machine

CONFIG = plain_config(
    network=MLPConfig(inputs=48, hidden=(32,), outputs=4),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
    rehearsal=RehearsalConfig(rows_per_task=40, ratio=1.0, logit_share=0.5),
)
PEOPLE: list[dict[str, Any]] = [
    {"age": 41, "plan": "pro", "city": None, "since": "2024-03-01", "active": True},
    {"age": 23.5, "plan": "free", "city": "Oslo", "since": "2025-11-30T18:00:00", "active": False},
    {"age": None, "plan": "free", "city": "Łódź", "since": None, "active": True},
]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = make_directory(tmp_path_factory.mktemp("records") / "store", CONFIG)
    with serving(path, canary_rows=4, max_rows=2000, max_body_bytes=5_000_000) as http:
        yield http


@pytest.fixture
def client(http: httpx.Client) -> Iterator[Client]:
    with Client(str(http.base_url)) as client:
        yield client


def new_task(http: httpx.Client, key: str, **more: Any) -> None:
    http.delete(f"/v1/tasks/{key}")
    body = {"key": key, "labels": ["stays", "leaves"], "kind": "records"} | more
    assert http.post("/v1/tasks", json=body).status_code == 201


def teach(http: httpx.Client, key: str, records: list[dict[str, Any]], **more: Any) -> httpx.Response:
    targets = ["stays", "leaves", "leaves", "stays"][: len(records)]
    return http.post("/v1/update", json={"context": key, "records": records, "targets": targets} | more)


def ask(http: httpx.Client, key: str, records: Any) -> httpx.Response:
    return http.post("/v1/infer", json={"context": key, "records": records, "return": ["logits"]})


def test_features_are_learned_from_the_first_update_and_shown(http: httpx.Client) -> None:
    new_task(http, "people")
    assert http.get("/v1/tasks/people").json()["features"] is None
    assert teach(http, "people", PEOPLE).status_code == 200
    features = {one["name"]: one["kind"] for one in http.get("/v1/tasks/people").json()["features"]}
    assert features == {
        "age": "number", "plan": "category", "city": "category", "since": "date", "active": "number",
    }  # fmt: skip


def test_order_holes_and_unseen_categories_are_fine(http: httpx.Client) -> None:
    new_task(http, "order")
    for _ in range(20):
        assert teach(http, "order", PEOPLE).status_code == 200
    reordered = [dict(reversed(record.items())) for record in PEOPLE]
    assert ask(http, "order", reordered).json() == ask(http, "order", PEOPLE).json()
    left_out = [{name: value for name, value in record.items() if value is not None} for record in PEOPLE]
    assert ask(http, "order", left_out).json() == ask(http, "order", PEOPLE).json()
    assert ask(http, "order", [{"plan": "enterprise", "city": "Reykjavík"}, {}]).status_code == 200
    body = {"context": "order", "records": PEOPLE, "targets": ["stays", "leaves", "leaves"]}
    assert http.post("/v1/evaluate", json=body).json()["accuracy"] == 1.0
    found = http.post("/v1/locate", json={"records": PEOPLE, "candidates": ["order"]})
    assert found.json()["best"] == "order"
    mixed = {"contexts": ["order", "order^1.0"], "records": PEOPLE[:2]}
    assert http.post("/v1/infer", json=mixed).status_code == 200


@pytest.mark.parametrize(
    "record",
    [
        {f"f{number}": number for number in range(10_000)},
        {f"f{number}": number for number in range(60)},  # more numbers than the store has inputs
        {"plan": "x" * 2**18}, {"plan": ["a"]}, {"plan": {"a": 1}}, {"age": 1e200}, {"x" * 200: 1}, {"": 1},
    ],
    ids=["10,000 fields", "60 numbers", "256 KiB", "list", "object", "1e200", "long name", "no name"],
)  # fmt: skip
def test_bad_records_are_refused_and_nothing_is_learned(http: httpx.Client, record: dict[str, Any]) -> None:
    new_task(http, "bad")
    before = http.get("/v1/store").json()["sequence"]
    answer = teach(http, "bad", [record])
    assert answer.status_code in {413, 422}, answer.text
    assert {"title", "detail"} <= set(answer.json())
    assert http.get("/v1/store").json()["sequence"] == before
    task = http.get("/v1/tasks/bad").json()
    assert (task["updates"], task["features"]) == (0, None)


def test_what_does_not_fit_the_features_is_refused(http: httpx.Client) -> None:
    new_task(http, "fits")
    teach(http, "fits", PEOPLE)
    before = http.get("/v1/store").json()["sequence"]
    for record in ({"age": "old"}, {"since": "yesterday"}, {"since": 5}, {"surprise": 1}):
        problem_of = teach(http, "fits", [PEOPLE[0] | record])
        assert problem_of.status_code == 422, problem_of.text
        assert ask(http, "fits", [PEOPLE[0] | record]).status_code == 422
    assert http.get("/v1/store").json()["sequence"] == before
    problem(http.post("/v1/infer", json={"context": "fits", "inputs": [[1.0] * 48]}), 422, "invalid-request")
    for body in ({}, {"records": PEOPLE, "inputs": [[1.0]]}, {"records": []}, {"records": "x"}, {"records": [5]}):
        assert http.post("/v1/infer", json={"context": "fits"} | body).status_code == 422
    http.post("/v1/tasks", json={"key": "numbers", "outputs": 2, "inputs": 3})
    problem(ask(http, "numbers", PEOPLE), 422, "shape-mismatch")


def test_declared_features_and_extra_ones_that_are_ignored(http: httpx.Client) -> None:
    features = [{"name": "zip", "kind": "category"}, {"name": "age", "kind": "number"}]
    new_task(http, "declared", features=features, extra_features="ignore")
    assert http.get("/v1/tasks/declared").json()["features"] == features
    assert teach(http, "declared", [{"zip": 10115, "age": 4, "more": "ignored"}]).status_code == 200
    one = ask(http, "declared", [{"zip": 10115, "age": 4}]).json()
    assert ask(http, "declared", [{"zip": "10115", "age": 4.0, "other": None}]).json() == one
    again = {"key": "declared", "labels": ["stays", "leaves"], "kind": "records", "extra_features": "ignore"}
    assert http.post("/v1/tasks", json=again).status_code == 200
    problem(http.post("/v1/tasks", json=again | {"features": features[:1]}), 409, "task-exists")


def frame(count: int = 120) -> tuple[pd.DataFrame, Any]:
    draw = np.random.default_rng(0)
    age, plan = draw.normal(40, 12, count), draw.choice(["pro", "free", "team"], count)
    table = pd.DataFrame(
        {
            "age": np.where(draw.random(count) < 0.1, np.nan, age),
            "plan": pd.Categorical(plan),
            "joined": pd.to_datetime("2020-01-01") + pd.to_timedelta(draw.integers(0, 2000, count), unit="D"),
            "visits": pd.array(draw.integers(0, 9, count), dtype="Int64"),
            "vip": draw.random(count) < 0.5,
        }
    )
    table.loc[::7, "joined"] = pd.NaT
    table.loc[::5, "visits"] = pd.NA
    return table, np.where((plan == "pro") | (age > 50), "stays", "leaves")


def test_a_data_frame_is_taught_in_three_lines_and_columns_may_move(client: Client) -> None:
    table, y = frame()
    task = client.task("frame", labels=np.unique(y))
    task.fit(table, y, epochs=25, seed=0)
    assert task.score(table, y) > 0.9
    moved = table[table.columns[::-1]]
    np.testing.assert_array_equal(task.predict_proba(moved), task.predict_proba(table))
    reopened = client.task("frame")
    assert (reopened.predict(table) == y).mean() == pytest.approx(task.score(table, y))
    assert reopened.score(table.to_dict("records"), y) == task.score(table, y)
    composed = client.task("mix(frame:1)")
    assert composed.score(table, y) == task.score(table, y)
    with pytest.raises(ValueError, match="wrap it in a list"):
        task.predict(PEOPLE[0])
    assert len(client.get_task("frame").features or []) == 5


def test_records_of_python_values(client: Client) -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4)
    records = [{"n": np.float32(1), "when": when, "took": datetime.timedelta(hours=1), "ok": np.bool_(True)}] * 4
    task = client.task("python", labels=[0, 1]).partial_fit(records, [0, 1, 0, 1])
    kinds = {one["name"]: one["kind"] for one in client.get_task("python").features or []}
    assert kinds == {"n": "number", "when": "date", "took": "number", "ok": "number"}
    assert task.predict(records).dtype.kind == "i"
    with pytest.raises(ValueError, match="no text: 1"):
        task.predict([{1: 2}])


def test_records_are_the_same_store_after_crashes_and_in_groups_of_any_size(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    updates: list[tuple[str, Any, list[Any]]] = []
    for number in range(40):
        rows = [
            {"a": draw.normal(5, 2), "b": str(draw.integers(5)), "c": None if draw.random() < 0.3 else number}
            for _ in range(3)
        ]
        updates.append((["r", "mix(r:0.6,s:0.4)", "s", "member"][number % 4], rows, draw.integers(0, 2, 3).tolist()))

    def machine(path: Path) -> Machine:
        made = Machine(path, config=CONFIG, canary_rows=0)
        for key, group in (("r", None), ("s", None), ("member", "r")):
            schema = TaskSchema(key=key, inputs=48, outputs=2, kind="records", scaling="running", group=group)
            made.do(Register(lambda _, schema=schema: schema))  # type: ignore[misc]
        return made

    def change(update: tuple[str, Any, list[Any]]) -> Update:
        context, rows, targets = update
        return Update(RowBatch(context, None, rows), targets, 1, weights=[1.0, 0.5, 2.0])

    single, grouped = machine(tmp_path / "single"), machine(tmp_path / "grouped")
    for number, update in enumerate(updates):
        single.do(change(update))
        if number % 11 == 5:
            single.crash()
        if number == 20:
            single.snapshot()
    outcomes = grouped.do_together([change(update) for update in updates])
    assert all(isinstance(one, dict) for one in outcomes)
    assert single.store.digest() == grouped.store.digest()
    grouped.roll_back(sequences=(20, 22))
    digest = grouped.store.digest()
    grouped.crash()
    assert grouped.store.digest() == digest
    features = grouped.store.tasks.get("r").features.to_json()
    assert json.dumps(features) == json.dumps(single.store.tasks.get("r").features.to_json())
    single.close()
    grouped.close()


def test_a_records_task_answers_before_its_first_update_and_empty_records_teach_no_features(http: httpx.Client) -> None:
    new_task(http, "early")
    body = {"context": "early", "records": PEOPLE}
    assert http.post("/v1/infer", json=body).json()["probabilities"] == [[0.5, 0.5]] * 3
    assert teach(http, "early", [{}]).status_code == 200
    assert http.get("/v1/tasks/early").json()["features"] is None
    assert teach(http, "early", PEOPLE).status_code == 200


def test_locate_passes_over_tasks_with_other_features(http: httpx.Client) -> None:
    new_task(http, "here")
    new_task(http, "there")
    teach(http, "here", [{"u": 1.0, "v": "k"}, {"u": 2.0, "v": "l"}])
    teach(http, "there", [{"x": 1.0}, {"x": 2.0}])
    asked = {"records": [{"u": 1.0, "v": "k"}], "candidates": ["here", "there"]}
    assert http.post("/v1/locate", json=asked).json()["best"] == "here"
    nothing = asked | {"records": [{"w": 1}]}
    problem(http.post("/v1/locate", json=nothing), 422, "shape-mismatch")


def test_compositions_of_other_kinds_are_refused(http: httpx.Client) -> None:
    new_task(http, "left")
    new_task(http, "right")
    http.post("/v1/tasks", json={"key": "plain", "labels": ["stays", "leaves"]})
    made = {"key": "both", "labels": ["stays", "leaves"], "composition": "mix(left:0.6,right:0.4)"}
    problem(http.post("/v1/tasks", json=made), 422, "composition-not-supported")
    problem(http.post("/v1/tasks", json=made | {"kind": "records", "inputs": 30}), 422, "composition-not-supported")
    assert http.post("/v1/tasks", json=made | {"kind": "records"}).status_code == 201
    mixed = {"context": "mix(left:0.5,plain:0.5)", "records": PEOPLE}
    problem(http.post("/v1/infer", json=mixed), 422, "composition-not-supported")


def test_many_records_of_many_features_are_refused_at_once(http: httpx.Client) -> None:
    features = [{"name": f"f{number}", "kind": "category"} for number in range(1024)]
    new_task(http, "wide", features=features)
    problem(ask(http, "wide", [{}] * 1000), 413, "batch-too-large")
    assert ask(http, "wide", [{}] * 100).status_code == 200


def test_frames_and_features_in_the_sdk(client: Client) -> None:
    table, y = frame(20)
    with pytest.raises(ValueError, match="one name each"):
        client.task("double", labels=["stays", "leaves"]).fit(table.rename(columns={"age": "vip"}), y)
    levels = pd.DataFrame(np.ones((2, 2)), columns=pd.MultiIndex.from_product([["a"], ["b", "c"]]))
    with pytest.raises(ValueError, match="one level"):
        client.task("levels", labels=[0, 1]).fit(levels, [0, 1])
    told = client.task("told", labels=["stays", "leaves"], features={"zip": "category"}, extra_features="ignore")
    told.partial_fit([{"zip": 1, "more": 2}, {"zip": 2}], ["stays", "leaves"])
    assert client.get_task("told").features == [{"name": "zip", "kind": "category"}]
    client.delete_task("told")
    client.register_task("told", labels=["stays", "leaves"], inputs=2)
    old = client.task("told").partial_fit(pd.DataFrame(np.ones((2, 2))), ["stays", "leaves"])
    client.delete_task("told")
    client.register_task("told", labels=["stays", "leaves"], kind="records")
    with pytest.raises(ShapeMismatch, match="takes records"):
        old.predict(pd.DataFrame(np.ones((2, 2))))
    old.partial_fit(pd.DataFrame(np.ones((2, 2))), ["stays", "leaves"])  # asked again what the task is
