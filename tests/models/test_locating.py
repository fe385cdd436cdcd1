"""Which task is this: found from rows, with and without targets, among tasks, compositions and powers."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.datasets import Dataset, sklearn_dataset
from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, learn, seeded_secret
from superposed.analysis.task_inference import locate, locate_exponent
from superposed.errors import (
    CapacityExceeded,
    CompositionNotSupported,
    LabelOutOfRange,
    NonFiniteInput,
    ShapeError,
    UnknownTask,
)

TASKS = 6


@pytest.fixture(scope="module")
def data() -> Dataset:
    return sklearn_dataset("digits")


def order(task: int) -> np.ndarray:
    return np.random.default_rng(100 + task).permutation(64)


def teach(store: WeightStore, context: str, data: Dataset, view: np.ndarray, batches: int = 60) -> None:
    for start in range(0, batches * 32, 32):
        rows = np.arange(start, start + 32) % len(data.train_x)
        learn(store, context, data.train_x[rows][:, view], data.train_y[rows].tolist())


def new_store(family: str = "phase") -> WeightStore:
    config = plain_config(
        network=MLPConfig(inputs=64, hidden=(64, 64), outputs=10),
        family=family,  # type: ignore[arg-type]
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3),
    )
    return WeightStore(config, secret=seeded_secret(4))


@pytest.fixture(scope="module")
def store(data: Dataset) -> WeightStore:
    store = new_store()
    for task in range(TASKS):
        mean = tuple(data.train_x.mean(0)[order(task)].tolist())
        schema = TaskSchema(key=f"p{task}", inputs=64, outputs=10, offset=mean, scale=(8.0,) * 64)
        store.register(schema)
        teach(store, f"p{task}", data, order(task))
    store.register(TaskSchema(key="narrow", inputs=8, outputs=2))
    return store


KEYS = [f"p{task}" for task in range(TASKS)] + ["narrow"]


@pytest.mark.parametrize("labelled", [False, True])
def test_the_task_is_found(store: WeightStore, data: Dataset, labelled: bool) -> None:
    digest = store.digest()
    right = []
    for task in range(TASKS):
        for start in range(0, 320, 32):
            rows = data.test_x[start : start + 32][:, order(task)]
            targets = data.test_y[start : start + 32].tolist() if labelled else None
            found = locate(store, rows, targets, candidates=KEYS)
            right.append(found.best == f"p{task}")
            probabilities = [score.probability for score in found.scores]
            assert sum(probabilities) == pytest.approx(1.0)
            assert probabilities == sorted(probabilities, reverse=True)
            assert "narrow" not in {score.context for score in found.scores}  # takes no such rows
            assert found.rows == 32
    assert np.mean(right) >= (1.0 if labelled else 0.95)
    assert store.digest() == digest


def test_more_rows_are_surer(store: WeightStore, data: Dataset) -> None:
    rows = data.test_x[:32][:, order(2)]
    one, many = (
        np.mean([locate(store, rows[n : n + size], candidates=KEYS).scores[0].probability for n in range(0, 32, size)])
        for size in (1, 8)
    )
    assert many > one


def test_a_composition_may_be_a_candidate(store: WeightStore, data: Dataset) -> None:
    rows = data.test_x[:16][:, order(1)]
    found = locate(store, rows, candidates=["mix(p0:0.5,p2:0.5)", "p1^2", "p1"])
    assert found.best == "p1"


def test_an_exponent_is_found(data: Dataset) -> None:
    store = new_store()
    store.register(TaskSchema(key="drift", inputs=64, outputs=10))
    taught = {0.6: order(1), 2.5: order(2), 3.7: order(3)}
    for exponent, view in taught.items():
        teach(store, f"drift^{exponent}", data, view)
    for exponent, view in taught.items():
        for targets in (None, data.test_y[:32].tolist()):
            found = locate_exponent(store, data.test_x[:32][:, view], targets, key="drift", exponents=(0, 4))
            assert abs(float(found.best.removeprefix("drift^")) - exponent) < 0.25


def test_tasks_of_few_and_of_many_outputs_are_compared_alike(data: Dataset) -> None:
    """Two tasks of 10 outputs and two of 2 (is it a 5 or more?): each is found among all four."""
    store, right = new_store(), []
    views = {"ten-0": order(0), "two-0": order(1), "ten-1": order(2), "two-1": order(3)}
    for key, view in views.items():
        store.register(TaskSchema(key=key, inputs=64, outputs=10 if key < "two" else 2, scale=(8.0,) * 64))
        for start in range(0, 60 * 32, 32):
            rows = np.arange(start, start + 32) % len(data.train_x)
            labels = data.train_y[rows] if key < "two" else data.train_y[rows] // 5
            learn(store, key, data.train_x[rows][:, view], labels.tolist())
    for key, view in views.items():
        for start in range(0, 320, 16):
            found = locate(store, data.test_x[start : start + 16][:, view], candidates=list(views))
            right.append(found.best == key)
    assert np.mean(right) >= 0.9


def test_what_decides_nothing_fits_alike_whatever_the_outputs() -> None:
    store = new_store()
    for outputs in (2, 10):
        store.register(TaskSchema(key=f"of-{outputs}", inputs=64, outputs=outputs))
    for parameter in store.network.parameters():
        parameter.data.zero_()
    found = locate(store, np.ones((5, 64)), candidates=["of-2", "of-10"])
    assert [score.probability for score in found.scores] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("inputs", [5, [[1.0, 2.0], [3.0]], "rows", [["a"] * 64], None])
def test_what_are_no_rows(store: WeightStore, inputs: object) -> None:
    with pytest.raises(ShapeError):
        locate(store, inputs, candidates=KEYS)
    with pytest.raises(ShapeError):
        locate_exponent(store, inputs, key="p0", exponents=(0, 1))


def test_candidates_are_counted_before_they_are_resolved(store: WeightStore, data: Dataset) -> None:
    with pytest.raises(CapacityExceeded):
        locate(store, data.test_x[:4], candidates=["no expression(", *KEYS], most=TASKS * 4)
    with pytest.raises(NonFiniteInput):  # tasks of other widths do not count
        locate(store, np.full((4, 64), np.nan), candidates=KEYS, most=TASKS * 4)


def test_what_cannot_be_located(store: WeightStore, data: Dataset) -> None:
    rows = data.test_x[:4]
    with pytest.raises(ShapeError, match="no candidate"):
        locate(store, rows[:, :9], candidates=KEYS)
    with pytest.raises(ShapeError, match="no candidate"):
        locate(store, rows, candidates=[])
    with pytest.raises(UnknownTask):
        locate(store, rows, candidates=["nobody"])
    with pytest.raises(CapacityExceeded, match="at most"):
        locate(store, rows, candidates=KEYS, most=TASKS * 4 - 1)
    with pytest.raises(NonFiniteInput):
        locate(store, np.full((2, 64), np.nan), candidates=KEYS)
    binary = new_store("binary")
    binary.register(TaskSchema(key="a", inputs=64, outputs=10))
    with pytest.raises(CompositionNotSupported):
        locate_exponent(binary, rows, key="a", exponents=(0, 1))


def of_all_kinds(*, initialized: bool = True) -> WeightStore:
    config = plain_config(network=MLPConfig(inputs=4, hidden=(16,), outputs=5))
    store = WeightStore(config, secret=seeded_secret(1), initialized=initialized)
    store.register(TaskSchema(key="animals", inputs=4, outputs=2, labels=("cat", "dog")))
    store.register(TaskSchema(key="five", inputs=4, outputs=5))
    store.register(TaskSchema(key="line", inputs=4, outputs=1, loss="mse"))
    return store


class TestCandidatesOfOtherKinds:
    KEYS = ("animals", "five", "line")
    ROWS = np.random.default_rng(0).normal(size=(3, 4))

    @pytest.mark.parametrize(
        ("targets", "expected"),
        [
            (["cat", "dog", "cat"], {"animals"}),
            ([0, 1, 0], {"five"}),
            ([4, 1, 0], {"five"}),
            ([0.5, 1.5, 2.0], {"line"}),
            (None, {"animals", "five"}),
        ],
    )
    def test_those_that_cannot_have_the_targets_are_passed_over(
        self, targets: list[str | int | float] | None, expected: set[str]
    ) -> None:
        found = locate(of_all_kinds(), self.ROWS, targets, candidates=self.KEYS)
        assert {score.context for score in found.scores} == expected

    def test_where_no_candidate_is_left(self) -> None:
        store = of_all_kinds()
        with pytest.raises(LabelOutOfRange, match="animals"):
            locate(store, self.ROWS, ["horse"] * 3, candidates=self.KEYS)
        with pytest.raises(ShapeError, match="without targets"):
            locate(store, self.ROWS, candidates=["line"])
        with pytest.raises(ShapeError, match="without targets"):
            locate_exponent(store, self.ROWS, key="line", exponents=(0.0, 1.0))

    def test_tasks_that_know_nothing_are_as_likely_however_many_classes_they_have(self) -> None:
        store = of_all_kinds(initialized=False)
        found = locate(store, self.ROWS, candidates=["animals", "five"])
        assert [score.probability for score in found.scores] == pytest.approx([0.5, 0.5])
