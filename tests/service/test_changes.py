"""A change and the record made of it: the same computation, on whatever rows come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments.plain import plain_config
from superposed import MLPConfig, TaskSchema, WeightStore, seeded_secret
from superposed.errors import SuperposedError
from superposed.learning.online import apply
from superposed.tasks.targets import read_targets
from superposed_service.changes.base import PreparedChange, keys_of
from superposed_service.changes.replay import change_of
from superposed_service.changes.rows import RowBatch, narrowed, pack, unpack
from superposed_service.changes.update import Update
from superposed_service.errors import HistoryTruncated, JournalCorrupt
from superposed_service.storage import Record

WIDTHS = {"a": 3, "b": 5, "line": 2}
DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]


def new_store() -> WeightStore:
    network = MLPConfig(inputs=6, hidden=(7,), outputs=4)
    store = WeightStore(plain_config(network=network), secret=seeded_secret(5))
    store.register(TaskSchema(key="a", inputs=3, outputs=4, offset=(1.0, 2, 3), scale=(0.1, 3, 7)))
    store.register(TaskSchema(key="b", inputs=5, labels=("x", "y"), outputs=2))
    store.register(TaskSchema(key="line", inputs=2, outputs=3, loss="mse"))
    return store


def rows_of(width: int, count: int) -> st.SearchStrategy[Any]:
    def elements(dtype: str) -> st.SearchStrategy[Any]:
        kind = np.dtype(dtype)
        if kind.kind == "f":
            return st.floats(-100, 100, width=8 * kind.itemsize)  # type: ignore[arg-type]
        return st.integers(max(-100, np.iinfo(kind).min), 100)

    arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, (count, width), elements=elements(dtype)))
    numbers = st.one_of(st.integers(-100, 100), st.floats(-100, 100))
    row = st.lists(numbers, min_size=width, max_size=width)
    return st.one_of(arrays, st.lists(row, min_size=count, max_size=count))


TARGETS = {
    "a": st.integers(0, 3),
    "b": st.sampled_from(["x", "y"]),
    "line": st.lists(st.floats(-3, 3), min_size=3, max_size=3),
}
WEIGHT = st.floats(0.01, 100)


@st.composite
def one_context(draw: st.DrawFn) -> tuple[RowBatch, list[Any]]:
    key, count = draw(st.sampled_from(sorted(WIDTHS))), draw(st.integers(1, 4))
    parts = [{"context": key, "weight": draw(WEIGHT)}, {"context": f"{key}^2", "weight": draw(WEIGHT)}]
    weights = {"mixture": parts}
    power = {"power": {"context": key, "exponent": draw(st.floats(-3, 3))}}
    context = draw(st.sampled_from([key, weights, power, f"{key}^0.3"]))
    return RowBatch(context, None, draw(rows_of(WIDTHS[key], count))), [draw(TARGETS[key]) for _ in range(count)]


@st.composite
def per_row(draw: st.DrawFn) -> tuple[RowBatch, list[Any]]:
    keys = draw(st.lists(st.sampled_from(sorted(WIDTHS)), min_size=1, max_size=5))
    contexts = [draw(st.sampled_from([key, {"task": key}, f"{key}^2"])) for key in keys]
    inputs = [list(draw(rows_of(WIDTHS[key], 1))[0]) for key in keys]
    return RowBatch(None, contexts, inputs), [draw(TARGETS[key]) for key in keys]


@settings(deadline=None, max_examples=150)
@given(sent=st.one_of(one_context(), per_row()), steps=st.integers(1, 2))
def test_applied_now_and_replayed_are_the_same(sent: tuple[RowBatch, list[Any]], steps: int) -> None:
    rows, targets = sent
    now, later = new_store(), new_store()
    change = Update(rows, targets, steps).prepare(now)
    entry = change.entry()
    again = change_of(Record(4, entry.kind, entry.head, entry.payload)).prepare(later)
    assert isinstance(again, PreparedChange)
    assert again.entry() == entry
    try:
        answer = change.apply(now)
    except SuperposedError:
        with pytest.raises(SuperposedError):
            again.apply(later)
    else:
        assert again.apply(later) == answer
    assert now.digest() == later.digest()


@settings(deadline=None, max_examples=60)
@given(sent=st.one_of(one_context(), per_row()))
def test_it_is_what_the_library_does_with_the_rows_as_they_came(sent: tuple[RowBatch, list[Any]]) -> None:
    rows, targets = sent
    store, plain = new_store(), new_store()
    change = Update(rows, targets, 1).prepare(store)
    try:
        change.apply(store)
    except SuperposedError:
        return
    batch = rows.batch(plain)
    apply(plain, batch, read_targets(batch, targets, 4))
    probe = np.ones((1, 3))
    difference = store.logits(store.batch("a", probe)) - plain.logits(plain.batch("a", probe))
    assert float(difference.abs().max()) < 1e-5


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(max_dims=2, max_side=20), elements={"allow_nan": False}))
def test_narrowing_keeps_every_number(array: np.ndarray[Any, Any]) -> None:
    found = narrowed(array)
    assert found.dtype.itemsize <= array.dtype.itemsize
    np.testing.assert_array_equal(found.astype(array.dtype), array)
    [(name, back)] = unpack(pack({"array": found})).items()
    assert (name, back.dtype) == ("array", found.dtype)
    np.testing.assert_array_equal(back, found)


def test_small_dtypes_stay_and_plain_numbers_shrink() -> None:
    for dtype in ("uint8", "float16"):
        assert narrowed(np.ones(3, dtype)).dtype == dtype
    assert narrowed(np.asarray([0, 255])).dtype == "uint8"
    assert narrowed(np.asarray([0, 256])).dtype == "int16"
    assert narrowed(np.asarray([0.5])).dtype == "float32"
    assert narrowed(np.asarray([0.1])).dtype == "float64"


def test_it_is_compressed_where_that_pays() -> None:
    assert len(pack({"inputs": np.zeros((100, 100), np.uint8)})) < 500
    noise = np.random.default_rng(0).integers(0, 256, 10_000).astype(np.uint8)
    assert 10_000 < len(pack({"inputs": noise})) < 10_200


def test_what_is_no_record_is_said() -> None:
    with pytest.raises(JournalCorrupt, match="unknown kind"):
        change_of(Record(1, "nonsense", {}, b""))
    with pytest.raises(JournalCorrupt, match="cannot be read"):
        change_of(Record(1, "update", {"context": "a", "steps": 1}, b"\x01nonsense"))
    with pytest.raises(HistoryTruncated, match="erased"):
        change_of(Record(1, "update", {"context": "a", "steps": 1}, None))


def test_a_record_names_its_tasks() -> None:
    assert keys_of({"context": "mix(a:1,b^2:3)"}) == {"a", "b"}
    assert keys_of({"contexts": ["a", "mix(b:1,c:1)"]}) == {"a", "b", "c"}
    assert keys_of({"schema": {"key": "a"}}) == keys_of({"key": "a"}) == {"a"}
    assert keys_of({"asked": {}}) == set()
