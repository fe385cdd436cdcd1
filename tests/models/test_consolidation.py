"""Consolidation: learning again what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from superposed import TaskSchema, WeightStore, evaluate, learn
from superposed.analysis.retrieval import RetrievedModel
from superposed.errors import ConfigError
from superposed.learning.consolidation import Judged, consolidate, judge
from tests.helpers.rehearsing_stores import new_store, rows


def separable(count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Rows whose class is the largest of their first three features."""
    x = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return x, x[:, :3].argmax(1).tolist()


def taught() -> WeightStore:
    store = new_store(200)
    for task in range(3):
        learn(store, f"t{task}", *separable(200, task))
    return store


class TestConsolidation:
    def test_it_makes_tasks_better_and_is_one_change(self) -> None:
        store = taught()
        drawn = store.draw(600, step=-1)
        assert drawn is not None
        before, sequence = judge(store, *drawn), store.sequence
        rates = [group["lr"] for group in store.optimizer.param_groups]
        assert consolidate(store, 150) == 150 * 256
        after = judge(store, *drawn)
        assert store.sequence == sequence + 1
        assert after.is_no_worse_than(before)
        assert not before.is_no_worse_than(after)
        assert rates == [group["lr"] for group in store.optimizer.param_groups]

    def test_tasks_of_neither_kind_pay_for_the_others(self) -> None:
        before = Judged({"a": 0.5}, 0.3)
        for better in (before, Judged({"a": 0.6}, 0.3), Judged({"a": 0.5}, 0.2)):
            assert better.is_no_worse_than(before)
        for worse in (Judged({"a": 0.6}, 0.31), Judged({"a": 0.4}, 0.1)):
            assert not worse.is_no_worse_than(before)

    def test_each_kind_is_judged_by_its_own_measure(self) -> None:
        store = taught()
        store.register(TaskSchema(key="line", inputs=6, outputs=2, loss="mse"))
        x = separable(50, 9)[0]
        learn(store, "line", x, x[:, :2].tolist())
        drawn = store.draw(2000)
        assert drawn is not None
        judged = judge(store, *drawn)
        assert set(judged.accuracy) == {"t0", "t1", "t2"}
        mine = evaluate(store, "line", x, x[:, :2].tolist())
        assert judged.loss == pytest.approx(mine.loss, rel=0.3)

    def test_the_same_state_gives_the_same_weights(self) -> None:
        one = taught()
        other = WeightStore.from_bytes(one.to_bytes())
        for store in (one, other):
            consolidate(store, 7)
        assert one.digest() == other.digest()

    def test_without_kept_rows_nothing_is_learned(self) -> None:
        store = new_store(0)
        learn(store, "t0", *rows(10))
        weights = {name: value.clone() for name, value in store.state().items()}
        assert consolidate(store, 3) == 0
        assert all(torch.equal(value, weights[name]) for name, value in store.state().items())
        with pytest.raises(ConfigError):
            consolidate(store, 0)


def with_rows(model: RetrievedModel, sample: np.ndarray, **changes: torch.Tensor) -> RetrievedModel:
    return RetrievedModel({**model.tensors, "rows": torch.from_numpy(sample), **changes}, model.metadata)
