from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import torch

from experiments.plain import plain_config
from superposed import (
    MLPConfig,
    OptimizerConfig,
    RetrievedModel,
    TaskSchema,
    WeightStore,
    capacity,
    evaluate,
    learn,
    retrieve_model,
    seeded_secret,
)
from superposed.analysis.crosstalk import measure
from superposed.contexts import FAMILIES, Context, ContextSource, Family, TaskId, family_named
from superposed.errors import ConfigError
from superposed.store.evaluations import Evaluation, Evaluations

ALL = sorted(FAMILIES)


def taught_store(**changes: object) -> WeightStore:
    network = {"inputs": 11, "hidden": (20, 14), "outputs": 4} | changes.pop("network", {})  # type: ignore[operator]
    config = plain_config(**({"network": network, "optimizer": OptimizerConfig(learning_rate=3e-3)} | changes))
    store = WeightStore(config, secret=seeded_secret(3))
    for place, key in enumerate("abc"):
        store.register(
            TaskSchema(key=key, inputs=9, outputs=3, offset=tuple(range(9)), scale=(2.0,) * 9, labels=(0, 1, 2))
        )
        rng = np.random.default_rng(place)
        for _ in range(20):
            learn(store, key, rng.normal(size=(32, 9)), rng.integers(0, 3, 32).tolist())
    return store


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", ["bound", "shared"])
def test_a_retrieved_model_answers_as_the_store_does(family: str, dtype: str, bias: str) -> None:
    store = taught_store(family=family, dtype=dtype, network={"bias": bias})
    texts = ["a", "mix(a:0.6,b:0.4)"] + ([] if family == "binary" else ["c^0.7", "mix(a:0.5,b^2:0.5)"])
    x = np.random.default_rng(9).normal(size=(40, 9))
    for text in texts:
        served = store.logits(store.batch(text, x))[:, :3]
        model = RetrievedModel.from_bytes(retrieve_model(store, text).to_bytes())
        answer = model(torch.from_numpy(x))
        tolerance = {"float32": 1e-4, "float64": 1e-5}[dtype]
        torch.testing.assert_close(answer, served, rtol=tolerance, atol=tolerance)
        assert model.metadata["labels"] == [0, 1, 2]
        assert model.metadata["sequence"] == store.sequence
        assert answer.dtype == served.dtype


@pytest.mark.parametrize(("activation", "normalisation"), [("tanh", "layer"), ("gelu", "none"), ("silu", "none")])
def test_every_activation_and_normalisation_is_carried(activation: str, normalisation: str) -> None:
    store = taught_store(network={"activation": activation, "normalisation": normalisation})
    x = np.random.default_rng(1).normal(size=(5, 9))
    torch.testing.assert_close(
        retrieve_model(store, "a")(torch.from_numpy(x)), store.logits(store.batch("a", x))[:, :3], rtol=1e-4, atol=1e-5
    )


def test_a_narrow_task_exports_at_its_own_width() -> None:
    model = retrieve_model(taught_store(), "b")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.tensors.items()}
    assert shapes["layers.0.weight"] == (20, 9)
    assert shapes["layers.2.weight"] == (3, 14)
    assert shapes["input.offset"] == (9,)


def test_a_large_offset_is_taken_off_exactly() -> None:
    store = taught_store()
    store.register(TaskSchema(key="times", inputs=2, outputs=3, offset=(1.7e9, 0.0), scale=(10.0, 1e-3)))
    x = np.random.default_rng(4).normal(size=(6, 2)) * [10.0, 1e-3] + [1.7e9, 0.0]
    served = store.logits(store.batch("times", x))[:, :3]
    model = RetrievedModel.from_bytes(retrieve_model(store, "times").to_bytes())
    torch.testing.assert_close(model(torch.from_numpy(x)), served, rtol=1e-4, atol=1e-5)


def test_the_same_store_gives_the_same_tensors_and_another_file_is_refused() -> None:
    assert retrieve_model(taught_store(), "a").to_bytes() == retrieve_model(taught_store(), "a").to_bytes()
    with pytest.raises(ConfigError):
        RetrievedModel.from_bytes(b"not a model")


def residual_variance(family: Family[Any], others: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the law: the variance of the response to `x` from other tasks' weights (K - 1, D_out, width)."""
    none = x.new_zeros(len(x), others.shape[1])
    return sum((family.response_energy(weight, x) for weight in others), start=none)


@pytest.mark.parametrize("family", ALL)
def test_the_residual_follows_the_law(family: str) -> None:
    """Retrieving one of K superposed random matrices leaves noise of the predicted variance."""
    kind, features, tasks, outputs = family_named(family), 64, 6, 8
    width = kind.width(features)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(tasks, outputs, width, generator=generator, dtype=torch.float64)
    x = torch.randn(16, width, generator=generator, dtype=torch.float64)
    squares = []
    for trial in range(60):
        source = ContextSource(kind, {"l": features}, seeded_secret(trial))
        contexts = torch.stack(
            [source.derive(Context(((TaskId(f"t{task}"), 1.0, None),)), "l") for task in range(tasks)]
        )
        store = kind.superpose(weights, contexts)
        recovered = kind.retrieve(store, contexts[0])
        squares.append((x @ (recovered - weights[0]).T).square())
        torch.testing.assert_close(kind.bind(x, contexts[0]) @ store.T, x @ recovered.T, rtol=1e-9, atol=1e-9)
    measured, law = torch.stack(squares).mean(0), residual_variance(kind, weights[1:], x)
    assert float(measured.mean() / law.mean()) == pytest.approx(1.0, abs=0.08)
    assert float((measured / law).log().abs().mean()) < 0.25


def test_one_task_is_retrieved_exactly() -> None:
    kind = family_named("phase")
    source = ContextSource(kind, {"l": 7}, seeded_secret(0))
    context = source.derive(Context(((TaskId("a"), 1.0, None),)), "l")
    weight = torch.randn(3, kind.width(7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(kind.retrieve(kind.superpose(weight[None], context[None]), context), weight)
    alone = residual_variance(kind, weight[None][1:], torch.ones(2, kind.width(7), dtype=torch.float64))
    assert torch.equal(alone, torch.zeros(2, 3, dtype=torch.float64))


class TestCrosstalk:
    def test_measured_agrees_with_the_law(self) -> None:
        store = WeightStore(
            plain_config(network=MLPConfig(inputs=200, hidden=(256, 256), outputs=10)), secret=seeded_secret(1)
        )
        store.register(TaskSchema(key="a", inputs=200, outputs=10))
        rng = np.random.default_rng(0)
        x = rng.normal(size=(64, 200))
        y = (x @ rng.normal(size=(200, 10))).argmax(1).tolist()
        for _ in range(100):
            learn(store, "a", x, y)
        sample = measure(store, store.batch("a", x))
        assert set(sample.measured) == {"layers.0", "layers.1", "layers.2"}
        for name, measured in sample.measured.items():
            assert measured == pytest.approx(sample.predicted[name], rel=0.35), name
        # The last layer answers its own task much more strongly than a stranger.
        assert sample.measured["layers.2"] < 0.5

    def test_capacity_is_empty_before_anything_was_measured(self) -> None:
        store = WeightStore(plain_config(network=MLPConfig(inputs=4, hidden=(4,), outputs=2)))
        assert capacity(store).layers == ()
        assert capacity(store).mean_accuracy is None
        assert capacity(store).tasks_left is None

    def test_capacity_shows_the_newest_measurements(self) -> None:
        store = taught_store()
        for key in "abc":
            evaluate(store, key, np.ones((4, 9)), [0, 1, 2, 0])
        shown = capacity(store)
        assert shown.tasks == 3
        assert [layer.name for layer in shown.layers] == ["layers.0", "layers.1", "layers.2"]
        accuracies = [store.evaluations.of(key)[-1].accuracy for key in "abc"]
        assert shown.mean_accuracy == pytest.approx(np.mean(accuracies))
        evaluate(store, "mix(a:0.5,b:0.5)", np.ones((4, 9)), [0, 1, 2, 0])
        assert capacity(store) == shown

    def test_tasks_left_comes_from_the_stores_own_fall(self) -> None:
        store = taught_store()
        for tasks in range(2, 8):
            for key in "ab":
                store.evaluations.remember(key, Evaluation(tasks, tasks, 100, 0.99 - 0.002 * tasks))
        left = capacity(store).tasks_left
        assert left is not None
        assert left.low <= left.estimate <= left.high
        assert left.estimate == pytest.approx(5, abs=1)
        flat = Evaluations()
        for tasks in range(2, 8):
            for key in "ab":
                flat.remember(key, Evaluation(tasks, tasks, 100, 0.9))
        store.evaluations = flat
        assert capacity(store).tasks_left is None

    def test_the_range_of_tasks_left_grows_with_what_accuracies_scatter(self) -> None:
        """Of many noisy falls by a point in 50 tasks nearly all end within the range, which is no wider than
        it has to be; without noise it is the number itself.
        """
        random = np.random.default_rng(0)
        store, inside, widths = taught_store(), 0, []
        for _ in range(60):
            store.evaluations = Evaluations()
            noise = random.normal(0, 0.001, 40)
            means = 0.95 - 0.01 / 50 * 5 * np.arange(40) + noise
            for place in range(20):
                for key in "ab":
                    store.evaluations.remember(key, Evaluation(5 * (place + 1), place, 100, means[place]))
            left = capacity(store).tasks_left
            assert left is not None
            fallen = 5 * next(more for more in range(1, 20) if means[19 + more] <= means[19] - 0.01)
            inside += left.low <= fallen <= left.high
            widths.append(left.high - left.low)
        assert inside >= 52
        assert 20 < np.median(widths) < 60  # 2 x 2 root 2 deviations are 28 tasks, and the slope's error
        store.evaluations = Evaluations()
        for place in range(20):
            for key in "ab":
                accuracy = 0.95 - 0.001 * place
                store.evaluations.remember(key, Evaluation(5 * (place + 1), place, 100, accuracy))
        exact = capacity(store).tasks_left
        assert exact is not None
        assert exact.high - exact.low <= 2

    def test_rows_of_the_same_weights_count_together_and_newer_weights_replace(self) -> None:
        evaluations = Evaluations()
        evaluations.remember("a", Evaluation(3, 10, rows=90, accuracy=1.0))
        evaluations.remember("a", Evaluation(3, 10, rows=10, accuracy=0.0))
        assert evaluations.of("a")[-1] == Evaluation(3, 10, 100, 0.9)
        evaluations.remember("a", Evaluation(2, 11, rows=5, accuracy=0.4))
        assert evaluations.of("a")[-1] == Evaluation(2, 11, 5, 0.4)
        for sequence in range(12, 200):
            evaluations.remember("a", Evaluation(sequence, sequence, 1, 0.5))
        assert len(evaluations.all()) == 64
        assert evaluations.of("a")[-1].sequence == 199

    def test_measuring_needs_no_room_in_the_table_and_never_spoils_an_update(self) -> None:
        roomy, cramped = taught_store(), taught_store(context_table_bytes=1)
        samples = [store.tasks.get("c").crosstalk for store in (roomy, cramped)]
        assert samples[0] == samples[1]
        learn(roomy, "a", [[1e17] + [1.0] * 8], [0])
        assert measure(roomy, roomy.batch("a", [[6e38] * 9])) is None
        roomy.to_bytes()


def test_metadata_nested_without_end_is_no_model() -> None:
    for text in ("[" * 100_000 + "]" * 100_000, "[1]", "3"):
        header = json.dumps({"__metadata__": {"superposed": text}}).encode()
        with pytest.raises(ConfigError, match="not a file"):
            RetrievedModel.from_bytes(struct.pack("<Q", len(header)) + header)
