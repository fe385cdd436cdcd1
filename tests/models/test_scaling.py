"""Running statistics against an oracle, in every way that a stream may be cut, and what follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, seeded_secret
from superposed.analysis.retrieval import RetrievedModel, retrieve_model
from superposed.config import RehearsalConfig
from superposed.errors import ConfigError, NonFiniteInput, SuperposedError
from superposed.learning.online import evaluate, learn
from superposed.tasks.calibration import Calibration
from superposed.tasks.scaling import CLIP, WINDOW, RunningStatistics

DRAW = np.random.default_rng(0)


def new_store(**rehearsal: Any) -> WeightStore:
    config = plain_config(
        network=MLPConfig(inputs=5, hidden=(16,), outputs=3),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-2),
        rehearsal=RehearsalConfig(**rehearsal),
    )
    return WeightStore(config, secret=seeded_secret(2))


def running(key: str, **more: Any) -> TaskSchema:
    return TaskSchema(**({"key": key, "inputs": 5, "outputs": 2, "scaling": "running"} | more))


@settings(max_examples=50, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 1.7e9, -3.0]),
)
def test_statistics_of_a_stream_are_those_of_all_its_rows_however_it_is_cut(
    cuts: list[int], size: float, offset: float
) -> None:
    rows = np.random.default_rng(len(cuts)).uniform(-1, 1, size=(sum(cuts), 3)) * size + offset
    statistics = RunningStatistics()
    for part in np.split(rows, np.cumsum(cuts)[:-1]):
        statistics.absorb(part)
    weight, mean, squares = statistics.values
    assert weight.tolist() == [len(rows)] * 3
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12, atol=1e-9 * size)
    rounding = len(rows) * (np.finfo(float).eps * max(abs(offset), size)) ** 2 + 1e-9 * size**2
    np.testing.assert_allclose(squares, np.square(rows - rows.mean(0)).sum(0), rtol=1e-5, atol=100 * rounding)


def test_statistics_follow_a_drift_once_the_window_is_full() -> None:
    statistics = RunningStatistics()
    statistics.absorb(DRAW.normal(0, 1, size=(WINDOW, 1)))
    for _ in range(60):
        statistics.absorb(DRAW.normal(5, 1, size=(1000, 1)))
    assert statistics.values[0] == WINDOW
    assert statistics.scaling(None).offset == pytest.approx(5, abs=0.1)


def test_an_outlier_moves_settled_statistics_no_more_than_the_clip_allows() -> None:
    statistics = RunningStatistics()
    statistics.absorb(DRAW.normal(0, 1, size=(1000, 1)))
    statistics.absorb(np.full((1, 1), 1e30))
    assert abs(float(statistics.scaling(None).offset[0])) < 0.2
    assert float(statistics.scaling(None).scale[0]) < 1.2


def test_missing_numbers_do_not_count_and_a_constant_feature_is_only_centred() -> None:
    rows = np.array([[1.0, np.nan, 7.0], [3.0, 5.0, 7.0]])
    statistics = RunningStatistics()
    statistics.absorb(rows)
    scaling = statistics.scaling(CLIP)
    assert statistics.values[0].tolist() == [2, 1, 2]
    assert (scaling.offset.tolist(), scaling.scale.tolist()) == ([2.0, 5.0, 7.0], [1.0, 1.0, 1.0])
    assert scaling.apply(rows).tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert scaling.apply(np.array([[1e9, np.nan, 7.0]])).tolist() == [[CLIP, 0, 0]]


def test_inputs_of_any_size_are_learned_alike() -> None:
    """Scaled by a power of two, which rounds nothing, a stream teaches the same model."""
    x, y = DRAW.normal(size=(120, 5)), DRAW.integers(0, 2, 120)
    answers = []
    for size in (1.0, 2.0**-40, 2.0**40):
        store = new_store()
        store.register(running("a"))
        for start in range(0, 120, 20):
            learn(store, "a", x[start : start + 20] * size, y[start : start + 20].tolist())
        answers.append(store.logits(store.batch("a", x * size)))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize(("size", "offset"), [(1e6, 3e7), (5e-4, 0.0), (1.0, 0.0), (1e3, 1.7e9)])
def test_mse_targets_are_learned_reported_and_answered_in_their_own_units(size: float, offset: float) -> None:
    x = DRAW.normal(size=(400, 5))
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0, 1.0])) * size + offset
    store = new_store(rows_per_task=100, logit_share=0.5)
    store.register(running("line", outputs=1, loss="mse"))
    store.register(running("other"))
    for _ in range(20):
        for start in range(0, 400, 40):
            learn(store, "line", x[start : start + 40], y[start : start + 40].tolist())
        learn(store, "other", x[:10], [0, 1] * 5)
    answers = store.answers(store.batch("line", x))[:, 0].double().numpy()
    assert np.abs(answers - y).mean() < 0.25 * y.std()
    measured = evaluate(store, "line", x, y.tolist())
    assert measured.loss == pytest.approx(np.square(answers - y).mean(), rel=1e-2)
    model = RetrievedModel.from_bytes(retrieve_model(store, "line").to_bytes())
    told = model(torch.from_numpy(x))[:, 0].double().numpy()
    np.testing.assert_allclose(told, answers, rtol=1e-4 if offset < 1e9 else 1e-6, atol=1e-3 * size + 1e-7 * offset)


def test_a_group_scales_as_its_group_task_and_a_mixture_as_its_heaviest_part() -> None:
    store = new_store()
    store.register(running("base"))
    store.register(running("member", group="base"))
    store.register(running("b"))
    learn(store, "member", DRAW.normal(100, 7, size=(50, 5)), [0, 1] * 25)
    learn(store, "b", DRAW.normal(-3, 1, size=(50, 5)), [0, 1] * 25)
    offsets = {text: store.resolve(text).scaling.offset for text in ("base", "member", "b")}  # type: ignore[union-attr]
    assert np.array_equal(offsets["base"], offsets["member"])
    assert offsets["base"][0] == pytest.approx(100, abs=5)
    for text, heavy in (("mix(base:0.7,b:0.3)", "base"), ("mix(base:0.2,b:0.8)", "b"), ("b^0.5", "b")):
        assert store.resolve(text).scaling is store.resolve(heavy).scaling
    assert not store.tasks.get("member").statistics.values.size


@pytest.mark.parametrize("context", ["a", "mix(a:0.5,b:0.5)", "a^1.5", "member"])
def test_an_export_answers_as_the_store_does_also_beyond_the_clip(context: str) -> None:
    store = new_store()
    for key in "ab":
        store.register(running(key))
    store.register(running("member", group="a", inputs=3))
    for key, width in (("a", 5), ("b", 5), ("member", 3)):
        learn(store, key, DRAW.normal(50, 9, size=(64, width)), [0, 1] * 32)
    width = 3 if context == "member" else 5
    rows = np.concatenate([DRAW.normal(50, 9, size=(6, width)), np.full((1, width), 1e6)])
    model = RetrievedModel.from_bytes(retrieve_model(store, context).to_bytes())
    assert model.metadata["input_clip"] == CLIP
    served = store.answers(store.batch(context, rows))[:, :2]
    np.testing.assert_allclose(model(torch.from_numpy(rows)), served, rtol=1e-4, atol=1e-5)


def test_kept_rows_follow_the_statistics_of_their_task() -> None:
    store = new_store(rows_per_task=30)
    store.register(running("a"))
    store.register(running("b"))
    early = DRAW.normal(0, 1, size=(20, 5))
    learn(store, "a", early, [0, 1] * 10)
    learn(store, "a", DRAW.normal(40, 9, size=(400, 5)), [0, 1] * 200)
    drawn = store.draw(200)
    assert drawn is not None
    expected = store.batch("a", early).inputs.numpy()
    low = drawn[0].inputs.numpy()
    # Rows are kept as they came: what is drawn now is scaled as the same rows are scaled now.
    assert np.abs(low).max() <= CLIP
    nearest = np.abs(low[:, None] - expected[None]).max(2).min(1)
    assert (nearest < 0.05).any()


def test_a_refused_update_leaves_the_statistics_as_they_were() -> None:
    store = new_store()
    store.register(running("line", outputs=1, loss="mse"))
    learn(store, "line", DRAW.normal(size=(100, 5)), DRAW.normal(size=100).tolist())
    digest = store.digest()
    with pytest.raises(SuperposedError):
        learn(store, "line", DRAW.normal(size=(2, 5)), [1e30, -1e30])
    assert store.digest() == digest
    with pytest.raises(NonFiniteInput, match="too large"):
        learn(store, "line", np.full((1, 5), 1e200), [0.0])
    assert store.digest() == digest


def test_a_saved_store_goes_on_bit_for_bit() -> None:
    store = new_store(rows_per_task=20, logit_share=0.5)
    store.register(running("a"))
    store.register(running("line", outputs=1, loss="mse"))

    def go_on(one: WeightStore) -> str:
        random = np.random.default_rng(7)
        for _ in range(5):
            learn(one, "a", random.normal(3, 2, size=(8, 5)), random.integers(0, 2, 8).tolist())
            learn(one, "line", random.normal(size=(8, 5)), random.normal(1e5, 9, 8).tolist())
        return one.digest()

    go_on(store)
    again = WeightStore.from_bytes(store.to_bytes())
    assert again.digest() == store.digest()
    assert go_on(again) == go_on(store)
    store.tasks.get("a").statistics.values[1, 0] += 1e-9
    assert store.digest() != again.digest()  # statistics are state


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": (0.0,) * 5}, {"scale": (1.0,) * 5}, {"kind": "records", "scaling": "none"},
        {"features": ({"name": "a", "kind": "number"},)},
        {"kind": "records", "features": ({"name": "a", "kind": "number"}, {"name": "a", "kind": "date"})},
        {"kind": "records", "features": ({"name": "", "kind": "number"},)},
    ],
)  # fmt: skip
def test_schemas_that_contradict_themselves_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValueError)):
        running("a", **fields)


def test_a_temperature_makes_confident_answers_as_right_as_they_say() -> None:
    """Logits four times too large: the temperature that calibrates them is 4."""
    random, calibration = np.random.default_rng(1), Calibration()
    for _ in range(1500):
        logits = random.normal(size=(16, 4))
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        classes = np.array([random.choice(4, p=one) for one in shares])
        hashes = random.integers(0, 2**31, 16).astype(np.uint32)
        calibration.learn(4 * logits, classes, hashes)
    assert calibration.temperature == pytest.approx(4, rel=0.25)
    for _ in range(200):  # what was measured ages as rows are learned again
        calibration.learn(4 * logits, classes, np.sort(calibration.seen[:16]).astype(np.uint32))
    assert calibration.temperature == pytest.approx(1, abs=0.05)


def test_weights_count_as_rows_do_and_zero_as_none() -> None:
    x, y = DRAW.normal(size=(6, 5)), [0, 1, 0, 1, 0, 1]
    from superposed.learning.online import apply
    from superposed.tasks.targets import read_targets, weighted

    def taught(weights: list[float], rows: int) -> WeightStore:
        store = new_store()
        store.register(TaskSchema(key="a", inputs=5, outputs=2))
        batch = store.batch("a", x[:rows])
        apply(store, batch, weighted(read_targets(batch, y[:rows], 3), weights))
        return store

    zero, without = taught([2, 2, 2, 0, 0, 0], 6), taught([1, 1, 1], 3)
    for name, tensor in zero.state().items():
        torch.testing.assert_close(tensor, without.state()[name], rtol=1e-4, atol=1e-6)
    for bad in ([1.0], [-1.0] * 6, [float("nan")] * 6, [0.0] * 6):
        with pytest.raises(SuperposedError):
            taught(bad, 6)


@pytest.mark.parametrize("seed", range(6))
def test_a_store_that_is_saved_between_any_two_updates_of_records_goes_on_bit_for_bit(seed: int) -> None:
    """Also where the kind of a feature is learned late: a column that is missing at first."""
    random = np.random.default_rng(seed)

    def record(late: bool) -> dict[str, Any]:
        values = {
            "a": random.normal(), "b": str(random.integers(3)), "c": random.normal(5), "d": "2026-01-02",
            "e": bool(random.integers(2)), "f": str(random.integers(4)),
        }  # fmt: skip
        holes = 0.3 if late else 0.8
        return {name: None if random.random() < holes else value for name, value in values.items()}

    store = new_store(rows_per_task=20, logit_share=0.5)
    store = WeightStore(
        store.config.replace(network=store.config.network.replace(inputs=12).model_dump()), secret=store.secret
    )
    for key, group in (("r", None), ("m", "r"), ("s", None)):
        store.register(running(key, kind="records", inputs=12, group=group))
    for number in range(12):
        again = WeightStore.from_bytes(store.to_bytes())
        assert again.digest() == store.digest()
        context, rows = (["r", "m", "s", "mix(r:0.7,s:0.3)"][number % 4], [record(number > 4) for _ in range(3)])
        outcomes = []
        for one in (store, again):
            try:
                outcomes.append(vars(learn(one, context, rows, [0, 1, 0])))
            except SuperposedError as error:
                outcomes.append({"refused": str(error)})
        assert outcomes[0] == outcomes[1]
        assert again.digest() == store.digest()


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_targets_of_any_size_have_a_finite_loss_and_can_be_saved(size: float) -> None:
    store = new_store(rows_per_task=20)
    store.register(running("line", outputs=1, loss="mse"))
    x = DRAW.normal(size=(40, 5))
    for _ in range(3):
        result = learn(store, "line", x, (x[:, 0] * size / 9).tolist())
    assert 0 < result.loss < np.inf
    assert WeightStore.from_bytes(store.to_bytes()).digest() == store.digest()
    with pytest.raises(NonFiniteInput, match="too large"):
        learn(store, "line", x[:1], [2e30])


def test_targets_far_from_zero_that_vary_little_are_learned() -> None:
    store = new_store()
    store.register(running("line", outputs=1, loss="mse"))
    x = DRAW.normal(size=(200, 5))
    y = 1e9 + 1e-3 * x[:, 0]
    for _ in range(30):
        for start in range(0, 200, 40):
            learn(store, "line", x[start : start + 40], y[start : start + 40].tolist())
    answers = store.answers(store.batch("line", x))[:, 0].numpy()
    assert 1 - np.square(answers - y).sum() / np.square(y - y.mean()).sum() > 0.5
