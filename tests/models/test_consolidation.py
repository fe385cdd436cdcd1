"""Consolidation and distillation: learning again what is kept, and learning what a network knows."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from superposed import TaskSchema, WeightStore, evaluate, learn
from superposed.analysis.retrieval import RetrievedModel, retrieve_model
from superposed.errors import CapacityExceeded, ConfigError, NonFiniteInput, ShapeError
from superposed.learning import distillation
from superposed.learning.consolidation import Judged, consolidate, judge
from superposed.learning.distillation import DistillationSet, distillation_set
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
        assert after.is_better_than(before)
        assert not before.is_no_worse_than(after)
        assert rates == [group["lr"] for group in store.optimizer.param_groups]

    def test_as_good_is_no_gain(self) -> None:
        """Else what runs while nothing else does would never end."""
        known, better = Judged({"a": 0.5, "b": 1.0}, None), Judged({"a": 0.75, "b": 1.0}, None)
        assert known.is_no_worse_than(known)
        assert not known.is_better_than(known)
        assert better.is_better_than(known)
        assert not known.is_no_worse_than(better)
        values = Judged({}, 0.300)
        assert Judged({}, 0.299).is_no_worse_than(values)
        assert not Judged({}, 0.299).is_better_than(values)
        assert Judged({}, 0.295).is_better_than(values)

    def test_tasks_of_neither_kind_pay_for_the_others(self) -> None:
        before = Judged({"a": 0.5}, 0.3)
        assert Judged({"a": 0.6}, 0.3).is_better_than(before)
        assert Judged({"a": 0.5}, 0.2).is_better_than(before)
        for worse in (Judged({"a": 0.6}, 0.31), Judged({"a": 0.4}, 0.1)):
            assert not worse.is_no_worse_than(before)
            assert not worse.is_better_than(before)

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


class TestDistillation:
    def test_a_models_answers_become_lessons(self) -> None:
        store = taught()
        model = retrieve_model(store, "t1")
        sample = separable(50, 9)[0]
        found = distillation_set(with_rows(model, sample), store.tasks.get("t0").schema)
        assert (len(found.inputs), len(found.held_inputs)) == (40, 10)
        answers = store.logits(store.batch("t1", sample))
        classes = torch.cat([found.held_targets, found.targets])
        assert not torch.equal(classes, answers.argmax(1))  # the rows come in another order
        assert torch.equal(classes.bincount(), answers.argmax(1).bincount())
        held = store.logits(store.batch("t1", found.held_inputs))
        assert found.agreement(held) == 1.0
        assert found.agreement(-held) < 0.5
        seen = torch.cat([x for x, _ in found.batches(3)])
        assert len(seen) == 120
        assert torch.equal(torch.unique(seen, dim=0), torch.unique(found.inputs, dim=0))

    def test_values_are_lessons_of_an_mse_task(self) -> None:
        store = new_store()
        store.register(TaskSchema(key="line", inputs=6, outputs=2, loss="mse"))
        learn(store, "line", rows(20)[0], np.random.default_rng(0).normal(size=(20, 2)).tolist())
        model = retrieve_model(store, "line")
        found = distillation_set(with_rows(model, rows(30)[0]), store.tasks.get("line").schema)
        assert found.targets.shape == (24, 2)
        assert found.agreement(found.held_targets) == 1.0
        assert found.agreement(found.held_targets.mean(0).expand(6, 2)) == pytest.approx(0.0, abs=1e-6)

    def test_what_is_no_model_of_the_task(self) -> None:
        store = taught()
        model, schema, sample = retrieve_model(store, "t1"), store.tasks.get("t1").schema, rows(10)[0]
        good = with_rows(model, sample)
        with pytest.raises(ConfigError, match="rows"):
            distillation_set(model, schema)
        for changes, error in (
            ({"layers.0.weight": torch.zeros(16, 5)}, ShapeError),
            ({"layers.1.bias": torch.zeros(4)}, ShapeError),
            ({"rows": torch.zeros(10, 5)}, ShapeError),
            ({"rows": torch.zeros(2, 6)}, ShapeError),
            ({"rows": torch.zeros(9, 6).to(torch.float8_e4m3fn)}, NonFiniteInput),
            ({"layers.1.bias": torch.zeros(3, dtype=torch.float64)}, ConfigError),
            ({"rows": torch.zeros(10)}, ShapeError),
            ({"input.scale": torch.ones(5)}, ShapeError),
            ({"layers.0.bias": torch.full((16,), torch.nan)}, NonFiniteInput),
            ({"rows": torch.zeros(10, 6, dtype=torch.int64)}, NonFiniteInput),
            ({"rows": torch.full((10, 6), 3e38)}, NonFiniteInput),
            ({"layers.2.weight": torch.zeros(1, 3)}, ConfigError),
            ({"else": torch.zeros(1)}, ConfigError),
        ):
            with pytest.raises(error):
                distillation_set(RetrievedModel({**good.tensors, **changes}, good.metadata), schema)
        for facts in (
            {"activation": "sign"},
            {"activation": ["relu"]},
            {"normalisation": {"kind": "batch"}},
            {"normalisation": {"kind": ["layer"], "epsilon": 1e-5}},
            {"normalisation": {"kind": "layer"}},
            {"normalisation": {"kind": "layer", "epsilon": "1e-5"}},
            {"normalisation": {"kind": "layer", "epsilon": float("nan")}},
            {"normalisation": None},
        ):
            with pytest.raises(ConfigError, match="network"):
                distillation_set(RetrievedModel(good.tensors, {**good.metadata, **facts}), schema)
        other = TaskSchema(key="x", inputs=6, outputs=2)
        with pytest.raises(ShapeError, match="outputs"):
            distillation_set(good, other)

    def test_metadata_nested_without_end_is_no_model(self) -> None:
        for text in ("[" * 100_000 + "]" * 100_000, "[1]", "3"):
            header = json.dumps({"__metadata__": {"superposed": text}}).encode()
            with pytest.raises(ConfigError, match="not a file"):
                RetrievedModel.from_bytes(struct.pack("<Q", len(header)) + header)

    def test_rows_keep_their_digits(self) -> None:
        """An offset far larger than what is left of it is subtracted in float64."""
        store = taught()
        model, schema = retrieve_model(store, "t1"), store.tasks.get("t1").schema
        sample = separable(50, 9)[0].astype(np.float64)
        far = {"input.offset": torch.full((6,), 1e9, dtype=torch.float64)}
        near, moved = (
            distillation_set(with_rows(model, sample), schema),
            distillation_set(with_rows(model, sample + 1e9, **far), schema),
        )
        assert moved.inputs.dtype == torch.float64
        assert torch.equal(moved.targets, near.targets)

    def test_sorted_rows_are_held_out_of_every_kind(self) -> None:
        store = taught()
        x = separable(90, 9)[0]
        answers = store.logits(store.batch("t1", x)).argmax(1)
        x = x[np.argsort(answers.numpy(), kind="stable")]
        found = distillation_set(with_rows(retrieve_model(store, "t1"), x), store.tasks.get("t1").schema)
        assert set(found.held_targets.tolist()) == set(answers.tolist())

    def test_a_constant_teacher_is_met_or_not(self) -> None:
        same = torch.full((4, 2), 0.5)
        found = DistillationSet(same, same, same, same)
        assert (found.agreement(same), found.agreement(same + 1)) == (1.0, 0.0)

    def test_the_work_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = taught()
        model, schema = retrieve_model(store, "t1"), store.tasks.get("t1").schema
        monkeypatch.setattr(distillation, "_MOST_NUMBERS", 16 * 50)
        monkeypatch.setattr(distillation, "_ROWS_AT_ONCE", 7)
        assert len(distillation_set(with_rows(model, rows(50)[0]), schema).inputs) == 40
        with pytest.raises(CapacityExceeded, match="16 wide"):
            distillation_set(with_rows(model, rows(51)[0]), schema)
        monkeypatch.setattr(distillation, "_MOST_NUMBERS", 16 * 51)
        monkeypatch.setattr(distillation, "_MOST_PRODUCTS", (6 * 16 + 16 * 3) * 50)
        with pytest.raises(CapacityExceeded, match="7344 multiplications"):
            distillation_set(with_rows(model, rows(51)[0]), schema)
