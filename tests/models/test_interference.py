"""Overlap and crosstalk of named tasks, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.plain import plain_config
from superposed import MLPConfig, WeightStore, learn, seeded_secret
from superposed.analysis.crosstalk import measure_interference
from superposed.contexts import FAMILIES
from superposed.errors import UnknownTask
from superposed.tasks.schema import TaskSchema

KEYS = ("a", "b", "c")


def make_store(family: str) -> WeightStore:
    config = plain_config(network=MLPConfig(inputs=9, hidden=(12,), outputs=3), family=family)
    store = WeightStore(config, secret=seeded_secret(3))
    for key, inputs in zip(KEYS, (9, 9, 5), strict=True):
        store.register(TaskSchema(key=key, inputs=inputs, outputs=3))
    return store


def rows_of(inputs: int, seed: int) -> list[list[float]]:
    return np.random.default_rng(seed).normal(size=(4, inputs)).tolist()  # type: ignore[no-any-return]


def dense(store: WeightStore, key: str, layer: str, width: int) -> torch.Tensor:
    """A context as the matrix that it is, column by column."""
    context = store.contexts.source.derive(store.resolve(key).context, layer)
    family = store.contexts.source.family
    return family.bind(torch.eye(width, dtype=torch.float64), context).T


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_overlap_is_the_trace(family: str) -> None:
    store = make_store(family)
    found = measure_interference(store, KEYS, {})
    widths = {
        name: store.contexts.source.family.width(features) for name, features in store.contexts.source.features.items()
    }
    for row, a in enumerate(KEYS):
        for column, b in enumerate(KEYS):
            traces = [
                float((dense(store, a, name, width) * dense(store, b, name, width)).sum() / width)
                for name, width in widths.items()
            ]
            assert found.overlap[row][column] == pytest.approx(np.mean(traces), abs=1e-5)
    assert found.crosstalk == (None, None, None)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_table_that_holds_fewer_contexts_changes_nothing(family: str) -> None:
    store = make_store(family)
    config = store.config.replace(context_table_bytes=2 * store.contexts.bytes_per_context)
    small = WeightStore(config, secret=store.secret)
    for key in KEYS:
        small.register(store.tasks.get(key).schema)
    assert small.contexts.capacity == 2
    assert measure_interference(small, KEYS, {}).overlap == measure_interference(store, KEYS, {}).overlap


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_crosstalk_is_the_energy_under_the_other_context(family: str) -> None:
    store = make_store(family)
    rows = {"a": rows_of(9, 1), "c": rows_of(5, 2)}
    for key, width in (("a", 9), ("b", 9), ("c", 5)):
        for seed in range(5):
            learn(store, key, rows_of(width, seed), [0, 1, 2, 0])
    sequence, weights = store.sequence, store.digest()
    found = measure_interference(store, KEYS, rows)
    assert (store.sequence, store.digest()) == (sequence, weights)
    assert found.tasks == KEYS
    assert found.crosstalk[1] is None
    for own, key in ((0, "a"), (2, "c")):
        expected = [np.mean(layer_ratios(store, key, other, rows[key])) for other in KEYS]
        assert found.crosstalk[own] == pytest.approx(expected, rel=1e-4)
        assert expected[own] == 1.0


def layer_ratios(store: WeightStore, key: str, other: str, rows: list[list[float]]) -> list[float]:
    """Layer by layer: the input it gets under the own context, answered under either."""
    signals: dict[str, torch.Tensor] = {}
    own, foreign = (store.contexts.bind_all(store.resolve(one).context) for one in (key, other))
    own = {name: type(binding)(binding.contexts.clone()) for name, binding in own.items()}
    batch = store.batch(key, rows)
    foreign = store.contexts.bind_all(store.resolve(other).context)
    with torch.inference_mode():
        store.network(batch.inputs, own, lambda name, layer, signal: signals.update({name: signal}))
        layers = store.network.superposed_layers()
        energies = [
            [float(layers[name](signal, bound[name]).double().square().mean()) for bound in (foreign, own)]
            for name, signal in signals.items()
        ]
    return [there / here for there, here in energies]


def test_an_unknown_task() -> None:
    with pytest.raises(UnknownTask):
        measure_interference(make_store("phase"), ["a", "nobody"], {})
