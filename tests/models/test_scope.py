"""Scope: nearest class means, with every kept row left out of its own mean, against a naive oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superposed import TaskSchema, WeightStore, learn, register
from superposed.analysis.scope import Scope, in_scope
from superposed.config import StoreConfig
from superposed.encoders import HashEncoder, describe
from superposed.errors import ConfigError
from tests.helpers import oracle


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(8, 40), classes=st.integers(1, 5), share=st.floats(0.01, 0.5))
def test_the_threshold_is_a_share_of_the_kept_rows_each_left_out(
    seed: int, rows: int, classes: int, share: float
) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(rows, 6)), draw.integers(0, classes, rows)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = []
    for place in range(rows):
        found = [-1.0]
        for label in set(y.tolist()):
            others = [row for row in range(rows) if y[row] == label and row != place]
            if others:
                found.append(cosine(units[others].sum(0), units[place]))
        nearest.append(max(found))
    scope = Scope.of(x, y, share)
    assert scope is not None
    assert scope.threshold == pytest.approx(float(np.quantile(nearest, share)), abs=2e-4)
    asked = draw.normal(size=(5, 6))
    means = [units[y == label].sum(0) for label in set(y.tolist())]
    expected = [max(cosine(mean, row) for mean in means) for row in asked]
    np.testing.assert_allclose(scope.nearness(asked), expected, atol=2e-4)


def test_rows_that_came_twice_do_not_vouch_for_each_other() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(20, 6)), draw.integers(0, 3, 20)
    once, twice = Scope.of(x, y, 0.1), Scope.of(np.tile(x, (3, 1)), np.tile(y, 3), 0.1)
    assert once is not None
    assert twice is not None
    assert once.threshold == pytest.approx(twice.threshold, abs=1e-5)


def test_few_rows_say_nothing() -> None:
    assert Scope.of(np.eye(7), np.zeros(7, np.int64), 0.1) is None


def text_store() -> WeightStore:
    encoder = describe("hash:64", None)  # type: ignore[arg-type]  # it keeps nothing
    values = {"network": {"inputs": 64, "hidden": (16,), "outputs": 4, "expansion": 2}, "encoders": {"t": encoder}}
    return WeightStore(StoreConfig.of_preset("general", values), secret=oracle.SECRET)


def schema(key: str, abstain: float | None) -> TaskSchema:
    return TaskSchema(key=key, inputs=64, outputs=2, labels=("a", "b"), kind="texts", encoder="t", abstain=abstain)


def test_a_store_follows_what_is_taught_forgotten_and_restored() -> None:
    store, encode = text_store(), HashEncoder(64).encode
    register(store, schema("careful", 0.2))
    register(store, schema("bold", None))
    rows = encode([f"card number {n}" for n in range(6)] + [f"flight number {n}" for n in range(6)])
    asked = encode(["card number 9", "unrelated zebra"])
    assert in_scope(store, "careful", asked).all()
    for key in ("careful", "bold"):
        learn(store, key, rows, ["a"] * 6 + ["b"] * 6)
    assert in_scope(store, "careful", asked).tolist() == [True, False]
    assert in_scope(store, "bold", asked).tolist() == [True, True]
    copy = WeightStore.from_bytes(store.to_bytes())
    assert in_scope(copy, "careful", asked).tolist() == [True, False]
    learn(store, "careful", encode([f"unrelated zebra {n}" for n in range(6)]), ["a"] * 6)
    assert in_scope(store, "careful", asked).tolist() == [True, True]
    store.adopt(copy)  # as a rollback does
    assert in_scope(store, "careful", asked).tolist() == [True, False]
    store.forget_rows("careful")
    assert in_scope(store, "careful", asked).all()


def test_a_scope_that_no_longer_fits_beside_others_is_the_one_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    store, encode = text_store(), HashEncoder(64).encode
    rows = encode([f"card number {n}" for n in range(6)] + [f"flight number {n}" for n in range(6)])
    for key in ("first", "second"):
        register(store, schema(key, 0.2))
        learn(store, key, rows, ["a"] * 6 + ["b"] * 6)
        in_scope(store, key, rows)
    learn(store, "first", rows, ["a"] * 6 + ["b"] * 6)
    monkeypatch.setattr("superposed.analysis.scope._MOST_BYTES", 1)
    assert in_scope(store, "first", rows).any()
    assert list(store.replay_buffer.derived) == ["first"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "rows", "encoder": None},
        {"loss": "mse", "labels": None},
        {"abstain": 0.0},
        {"abstain": 0.6},
        {"encoder": None},
    ],
)
def test_only_tasks_of_texts_abstain(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        schema("a", 0.1).replace(**wrong)
