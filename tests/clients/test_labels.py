"""Labels of every type that users have come back as they went in, on every kind of handle."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig
from superposed_client import Client, LabelOutOfRange
from superposed_client._errors import ApiError
from tests.conftest import make_directory, serving

X = np.random.default_rng(0).normal(size=(60, 3))
CLASSES = (X[:, 0] > 0.4).astype(int) + (X[:, 0] > -0.4)
TEXTS = np.array(["α", "naïve café", "日本"])
DATES = np.array(["2026-01-01", "2026-02-03T04:05:06.789", "1969-12-31"], dtype="M8[ns]")

TARGETS: dict[str, Any] = {
    **{name: (CLASSES - 1).astype(name) for name in ("int8", "int16", "int32", "int64")},
    **{name: (CLASSES + 7).astype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
    **{name: (CLASSES / 2 - 0.5).astype(name) for name in ("float16", "float32", "float64", "longdouble")},
    "whole floats": (CLASSES + 1).astype(float),
    "from one": CLASSES + 1,
    "large": CLASSES + (2**63 - 5),
    "bool": CLASSES > 0,
    "str": TEXTS[CLASSES],
    "number-like str": np.array(["1", "2", "3"])[CLASSES],
    "object of str": TEXTS[CLASSES].astype(object),
    "object of int": CLASSES.astype(object),
    "object of bool": (CLASSES > 0).astype(object),
    "list of int": CLASSES.tolist(),
    "list of dates": [DATES[place].astype("M8[us]").item() for place in CLASSES],
    "categorical": pd.Categorical.from_codes(CLASSES, categories=["low", "mid", "high"]),
    "categorical of int": pd.Series(CLASSES).astype("category"),
    "pandas string": pd.Series(TEXTS[CLASSES], dtype="string"),
    "pandas Int64": pd.Series(CLASSES, dtype="Int64"),
    "pandas boolean": pd.Series(CLASSES > 0, dtype="boolean"),
    "pandas datetime": pd.Series(DATES[CLASSES]),
    "datetime64[D]": DATES[CLASSES].astype("M8[D]"),
    "datetime64[ns]": DATES[CLASSES],
    "torch int": torch.from_numpy(CLASSES),
    "torch bool": torch.from_numpy(CLASSES > 0),
    "torch float32": torch.from_numpy(CLASSES.astype(np.float32)),
    "non-contiguous": np.stack([CLASSES, CLASSES], axis=1)[:, 0],
    "reversed": CLASSES[::-1].copy()[::-1],
    "one column": CLASSES[:, None],
    "big-endian": CLASSES.astype(">i4"),
}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    network, optimizer = MLPConfig(inputs=4, hidden=(24,), outputs=6), OptimizerConfig(learning_rate=1e-2)
    path = make_directory(
        tmp_path_factory.mktemp("labels") / "store", plain_config(network=network, optimizer=optimizer)
    )
    with serving(path, quota_updates_per_s=0.0, canary_rows=0) as http:
        yield http


@pytest.fixture
def client(http: httpx.Client) -> Iterator[Client]:
    with Client(str(http.base_url)) as client:
        yield client


def plain(y: Any) -> Any:
    """Targets as a numpy array that predictions can be compared with."""
    array = np.asarray(y.tolist() if isinstance(y, torch.Tensor) else y)
    array = array[:, 0] if array.ndim == 2 else array
    dates = array.dtype.kind == "M" or isinstance(array.flat[0], datetime.date)
    return array.astype("M8[ns]") if dates else array


@pytest.mark.parametrize("name", TARGETS)
def test_labels_on_every_kind_of_handle_come_back_as_they_went_in(client: Client, name: str) -> None:
    y, key = TARGETS[name], f"k{list(TARGETS).index(name)}"
    values = plain(y)
    labels = np.unique(values)
    first = client.task(key, labels=labels).fit(X, y, epochs=15, seed=0)
    reopened, composed = client.task(key), client.task(f"mix({key}:0.9,{key}:0.1)")
    for handle in (first, reopened, composed):
        assert_agrees(handle, y, values)
    client.delete_task(key)
    with pytest.raises(ApiError):
        first.partial_fit(X, y)
    first.fit(X, y, epochs=15, seed=0)  # registered again
    assert_agrees(first, y, values)


def assert_agrees(handle: Any, y: Any, values: Any) -> None:
    predicted = handle.predict(X)
    assert set(predicted.tolist()) <= set(np.unique(values).tolist())
    assert predicted.dtype.kind == {"u": "i"}.get(values.dtype.kind, values.dtype.kind) or values.dtype == object
    assert (predicted == values).mean() == pytest.approx(handle.score(X, y))
    assert handle.score(X, y) > 0.5


def test_shifted_labels_as_texts_beside_numbers_are_refused_with_both_readings(client: Client) -> None:
    handle = client.task("shifted", labels=["1", "2", "3"])
    with pytest.raises(LabelOutOfRange) as refused:
        handle.partial_fit(X[:2], [1, 2])
    text = str(refused.value)
    assert "the label that is written 1 (class 0)" in text
    assert "class index 1" in text
    assert client.list_tasks("shifted") == []  # what is refused registers nothing


@pytest.mark.parametrize(
    ("labels", "target"),
    [
        ([1, 2], True), ([1, 2], "1"), ([True, False], 1), ([True, False], "True"), (["a", "b"], 0),
        (["a", "b"], True), ([0.5, 1.5], "0.5"), ([0.5, 1.5], 1), ([1, 2], 1.5), (["a"], "A"),
    ],
)  # fmt: skip
def test_a_target_of_another_type_or_value_is_refused(client: Client, labels: Any, target: Any) -> None:
    with pytest.raises(LabelOutOfRange):
        client.task("typed", labels=labels).partial_fit(X[:1], [target])
    assert client.list_tasks("typed") == []


@pytest.mark.parametrize(
    "labels", [[1, "a"], [True, 2], [0.5, "x"], [1, 1.0], ["a", "a"], ["x" * 257], [[1]], [None, 1]]
)
def test_labels_that_cannot_be_told_apart_are_refused(http: httpx.Client, labels: Any) -> None:
    body = {"key": "bad", "inputs": 3}
    answer = http.post("/v1/tasks", json=body | {"labels": labels})
    assert answer.status_code == 422, answer.text
    assert http.get("/v1/tasks/bad").status_code == 404


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True),
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6, unique=True),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=6, unique=True),
        st.permutations([True, False]),
    ),
    picks=st.lists(st.integers(0, 100), min_size=1, max_size=4),
)
def test_any_labels_are_registered_taught_and_predicted(http: httpx.Client, labels: Any, picks: Any) -> None:
    http.delete("/v1/tasks/any")
    made = http.post("/v1/tasks", json={"key": "any", "inputs": 3, "labels": labels})
    assert made.status_code == 201, made.text
    assert made.json()["labels"] == labels
    targets = [labels[pick % len(labels)] for pick in picks]
    body = {"context": "any", "inputs": [[0.5, 1, 2]] * len(picks)}
    assert http.post("/v1/update", json=body | {"targets": targets}).status_code == 200
    answered = http.post("/v1/infer", json=body).json()["labels"]
    assert all(type(one) is type(labels[0]) or isinstance(one, float) for one in answered)
    assert set(map(repr, answered)) <= set(map(repr, http.get("/v1/tasks/any").json()["labels"]))
    again = http.post("/v1/tasks", json={"key": "any", "inputs": 3, "labels": labels})
    assert again.status_code == 200


@pytest.mark.parametrize("y", [[1, "2"], [True, 2], ["a", 1], pd.Series(["1", 2], dtype=object)], ids=str)
def test_targets_of_mixed_types_keep_them_and_are_refused(client: Client, y: Any) -> None:
    client.register_task("mixed-text", labels=["1", "2", "a"], inputs=3)
    client.register_task("mixed-int", labels=[1, 2], inputs=3)
    for key in ("mixed-text", "mixed-int"):
        with pytest.raises(LabelOutOfRange):
            client.update(key, X[:2], y, grow_labels=True)
    assert client.get_task("mixed-text").schema_version == client.get_task("mixed-int").schema_version == 1


def test_times_that_cannot_be_told_exactly_are_refused(client: Client) -> None:
    for y in (
        [datetime.date(1, 1, 1)],
        [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)],
        pd.Series(pd.to_datetime(["2026-01-01"], utc=True)),
        [np.datetime64("NaT")],
    ):
        with pytest.raises(ValueError, match=r"time|missing"):
            client.task("when", labels=["a"]).partial_fit(X[:1], y)
    with pytest.raises(ApiError, match="ISO 8601"):
        client.register_task("when", labels=["hello"], label_form="datetime", inputs=3)


def test_numbers_grow_by_value(http: httpx.Client) -> None:
    http.post("/v1/tasks", json={"key": "whole", "labels": [1, 2], "inputs": 3})
    body = {"context": "whole", "inputs": [[0, 1, 2]], "grow_labels": True}
    for target in (7.0, 7, 2.0):
        assert http.post("/v1/update", json=body | {"targets": [target]}).status_code == 200
    assert http.get("/v1/tasks/whole").json()["labels"] == [1, 2, 7]
    assert http.post("/v1/update", json=body | {"targets": [7.5]}).status_code == 422
