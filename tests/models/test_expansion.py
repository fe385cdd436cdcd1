"""Expansion: an isometry into a wider space, in every diagonal family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from superposed.analysis.capacity import capacity
from superposed.analysis.crosstalk import PROBES, measure_interference
from superposed.analysis.retrieval import retrieve_model
from superposed.config import MLPConfig, ModuleConfig, StoreConfig
from superposed.contexts import ContextSource, Expanded, Stream, TaskId, expanded, family_named, seeded_secret
from superposed.errors import ConfigError
from superposed.learning.online import learn
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
from tests.helpers import oracle

DIAGONAL = ("phase", "binary", "complex", "cyclic")
BLOCKS, FEATURES = 5, 7


def _contexts(name: str, *expressions: str) -> tuple[Expanded, torch.Tensor]:
    family = Expanded(family_named(name), BLOCKS)
    source = ContextSource(family_named(name), {"l": FEATURES}, oracle.SECRET, {"l": family})
    store = WeightStore(
        StoreConfig(network=MLPConfig(inputs=FEATURES - 1, hidden=(), outputs=2), family=name),  # type: ignore[arg-type]  # a parameter
        secret=oracle.SECRET,
    )
    for key in "ab":
        store.register(TaskSchema(key=key, inputs=FEATURES - 1, outputs=2))
    return family, torch.stack([source.derive(store.resolve(one).context, "l") for one in expressions])


@pytest.mark.parametrize("name", DIAGONAL)
def test_bind_expanded_context_is_isometry(name: str) -> None:
    family, contexts = _contexts(name, "a", "mix(a:0.3,b:0.7)")
    x = torch.randn(9, family.width(FEATURES), dtype=torch.float64)
    index = torch.arange(9) % 2
    bound = family.bind(x, contexts, index)
    assert bound.shape == (9, family.bound_width(FEATURES))
    torch.testing.assert_close(bound.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(family.unbind(bound, contexts, index), x)


@pytest.mark.parametrize("name", DIAGONAL)
def test_bind_expanded_context_equals_blocks_of_family(name: str) -> None:
    family, contexts = _contexts(name, "a")
    base = family_named(name)
    x = torch.randn(3, family.width(FEATURES), dtype=torch.float64)
    bound = family.bind(x, contexts[0]).view(3, family.halves, BLOCKS, -1)
    blocks = contexts[0].view(*contexts[0].shape[:-1], BLOCKS, -1) * BLOCKS**0.5
    for block in range(BLOCKS):
        alone = base.bind(x, blocks[..., block, :]) / BLOCKS**0.5
        torch.testing.assert_close(bound[:, :, block].reshape(3, -1), alone)


@pytest.mark.parametrize("name", ["phase", "complex", "cyclic"])
def test_compose_expanded_context_averages_and_multiplies_phases_in_each_block(name: str) -> None:
    """Computed here from the phases as drawn, block by block."""
    family, contexts = _contexts(name, "mix(a:0.25,b:0.75)", "a^0.5")
    one, two = (family.generate(Stream.for_task(oracle.SECRET, "l", TaskId(key)), FEATURES) for key in "ab")
    mixed = 0.25 * (one[0] if name == "cyclic" else one) + 0.75 * (two[0] if name == "cyclic" else two)
    power = one[0] + 0.5 * one[1] if name == "cyclic" else 0.5 * one
    for context, phases in zip(contexts, (mixed, power), strict=True):
        expected = torch.stack([phases.cos(), phases.sin()]) / BLOCKS**0.5
        torch.testing.assert_close(context, expected)
    blocks = power.view(BLOCKS, -1)
    assert not torch.allclose(blocks[0], blocks[1])  # each block has phases of its own


def test_compose_expanded_binary_mixture_overlaps_parts_by_their_weights() -> None:
    family = Expanded(family_named("binary"), 64)
    source = ContextSource(family_named("binary"), {"l": 64}, oracle.SECRET, {"l": family})
    store = WeightStore(StoreConfig(network=MLPConfig(inputs=4, hidden=(), outputs=2)))
    for key in "ab":
        store.register(TaskSchema(key=key, inputs=4, outputs=2))
    one, two, mixed = (source.derive(store.resolve(text).context, "l") for text in ("a", "b", "mix(a:0.25,b:0.75)"))
    length = float(one.square().sum())
    assert float(mixed @ one) / length == pytest.approx(0.25, abs=0.05)
    assert float(mixed @ two) / length == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("name", DIAGONAL)
def test_superpose_expanded_contexts_retrieves_one_model_exactly(name: str) -> None:
    family, contexts = _contexts(name, "a", "b")
    weights = torch.randn(2, 4, family.width(FEATURES), dtype=torch.float64)
    alone = family.superpose(weights[:1], contexts[:1])
    assert alone.shape == (4, family.bound_width(FEATURES))
    torch.testing.assert_close(family.retrieve(alone, contexts[0]), weights[0])


@pytest.mark.parametrize("name", DIAGONAL)
def test_response_energy_expanded_equals_mean_over_random_contexts(name: str) -> None:
    family, base = Expanded(family_named(name), 3), family_named(name)
    x = torch.randn(2, family.width(4), dtype=torch.float64)
    weight = torch.randn(3, family.bound_width(4), dtype=torch.float64)
    total = torch.zeros(2, 3, dtype=torch.float64)
    for trial in range(4000):
        source = ContextSource(base, {"l": 4}, seeded_secret(trial), {"l": family})
        total += (family.bind(x, source.derive(PROBES[0], "l")) @ weight.T).square()
    torch.testing.assert_close(total / 4000, family.response_energy(weight, x), rtol=0.15, atol=0.05)


def test_expanded_context_overlap_of_two_tasks_falls_by_root_of_blocks() -> None:
    overlaps = []
    for blocks in (1, 16):
        family = expanded(family_named("binary"), blocks)
        source = ContextSource(family_named("binary"), {"l": 64}, oracle.SECRET, {"l": family})
        contexts = []
        store = WeightStore(StoreConfig(network=MLPConfig(inputs=4, hidden=(), outputs=2)))
        for number in range(60):
            store.register(TaskSchema(key=f"t{number}", inputs=4, outputs=2))
            contexts.append(source.derive(store.resolve(f"t{number}").context, "l"))
        rows = torch.stack(contexts)
        gram = (rows @ rows.T).fill_diagonal_(0.0)
        overlaps.append(float(gram.square().sum() / (60 * 59)) ** 0.5 / float(rows[0].square().sum()))
    assert overlaps[0] / overlaps[1] == pytest.approx(4.0, rel=0.1)


def test_expanded_rotation_is_refused() -> None:
    with pytest.raises(ConfigError, match="rotations have no expansion"):
        WeightStore(StoreConfig(network=MLPConfig(expansion=4), family="rotation"))


@pytest.mark.parametrize("name", DIAGONAL)
@pytest.mark.parametrize("hidden", [(), (6, 8)])
def test_store_expanded_answers_exports_and_saves_as_its_network(name: str, hidden: tuple[int, ...]) -> None:
    network = MLPConfig(inputs=9, hidden=hidden, outputs=3, expansion=BLOCKS)
    store = WeightStore(StoreConfig(network=network, family=name), secret=oracle.SECRET)  # type: ignore[arg-type]  # a parameter
    for key in "ab":
        store.register(TaskSchema(key=key, inputs=9, outputs=3))
    rows = torch.randn(12, 9)
    for _ in range(3):
        learn(store, "a", rows, [0, 1, 2] * 4)
        learn(store, "b", rows, [2, 1, 0] * 4)
    for context in ("a", "b", "mix(a:0.5,b:0.5)"):
        batch = store.batch(context, rows)
        plain = store.network(batch.inputs, store.bindings(batch)).detach()
        torch.testing.assert_close(store.logits(batch), plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(retrieve_model(store, context)(rows), plain, rtol=1e-4, atol=1e-5)
    again = WeightStore.from_bytes(store.to_bytes())
    assert again.digest() == store.digest()
    learn(store, "a", rows, [0, 1, 2] * 4)
    learn(again, "a", rows, [0, 1, 2] * 4)
    assert again.digest() == store.digest()


def small_network() -> torch.nn.Module:
    """Return a network of the user's own, whose output layer is called `1`."""
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))


def test_wrapped_network_names_its_output_layer_or_is_refused() -> None:
    factory = f"{__name__}:small_network"
    with pytest.raises(ValueError, match="output_layer"):
        ModuleConfig(factory=factory, input_shape=(4,), outputs=3, expansion=4)
    wrong = ModuleConfig(factory=factory, input_shape=(4,), outputs=3, expansion=4, output_layer="7")
    with pytest.raises(ConfigError, match="no such output layer"):
        WeightStore(StoreConfig(network=wrong))
    store = WeightStore(StoreConfig(network=wrong.replace(output_layer="1")))
    plain = WeightStore(StoreConfig(network=wrong.replace(expansion=1, output_layer=None)))
    store.register(TaskSchema(key="a", inputs=4, outputs=3))
    assert (
        store.network.superposed_layers()["1"].weight.shape[1]
        == 4 * (plain.network.superposed_layers()["1"].weight.shape[1])
    )
    learn(store, "a", torch.randn(6, 4), [0, 1, 2] * 2)
    rows = torch.randn(5, 4)
    module = retrieve_model(store, "a").load_into(small_network())
    torch.testing.assert_close(module(rows).detach(), store.logits(store.batch("a", rows)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DIAGONAL)
def test_crosstalk_and_interference_know_expanded_layers(name: str) -> None:
    """The law agrees with what is measured; a task overlaps with itself alone."""
    network = MLPConfig(inputs=40, hidden=(64,), outputs=10, expansion=8)
    store = WeightStore(StoreConfig(network=network, family=name), secret=oracle.SECRET)  # type: ignore[arg-type]  # a parameter
    draw = np.random.default_rng(0)
    for key in "abc":
        store.register(TaskSchema(key=key, inputs=40, outputs=10))
        for _ in range(5):
            learn(store, key, draw.normal(size=(64, 40)), draw.integers(0, 10, 64).tolist())
    sample = store.tasks.get("c").crosstalk
    assert sample is not None
    ratio = sample.measured["layers.1"] / sample.predicted["layers.1"]
    assert 0.6 < ratio < 1.6
    found = measure_interference(store, ["a", "b"], {"a": draw.normal(size=(8, 40))})
    assert found.overlap[0][0] == pytest.approx(1.0)
    assert abs(found.overlap[0][1]) < 0.3
    assert capacity(store).layers
