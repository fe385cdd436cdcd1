"""The fused kernels answer and learn as the plain network does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from superposed import WeightStore, learn
from superposed.nn.fused_mlp import FusedMLP
from superposed.nn.layers import fused_kernels
from superposed.tasks.batch import Batch
from tests.helpers.small_stores import store_of

FAMILIES = ("phase", "complex", "cyclic", "binary")


@contextmanager
def plain_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedMLP, "can_run", lambda *_: False)
        yield


def batch_of(store: WeightStore, rows: int, *, mixed: bool) -> Batch:
    draw = np.random.default_rng(rows)
    inputs = draw.normal(size=(rows, store.config.network.inputs))
    contexts = [f"t{number}" for number in draw.integers(0, 5, rows)]
    return store.batch_per_row(contexts, list(inputs)) if mixed else store.batch("t1", inputs)


def answers_and_gradients(store: WeightStore, batch: Batch) -> list[Tensor]:
    store.network.zero_grad()
    logits: Tensor = store.network(batch.inputs, store.bindings(batch))
    factors = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    (logits * factors).sum().backward()  # type: ignore[no-untyped-call]
    found = [one.grad.clone() for one in store.network.parameters() if one.grad is not None]
    return [logits.detach(), *found]


def compare(store: WeightStore, rows: int, *, mixed: bool) -> None:
    batch = batch_of(store, rows, mixed=mixed)
    assert store.network._fused.can_run(batch.inputs, store.bindings(batch))  # type: ignore[union-attr]
    fused = answers_and_gradients(store, batch)
    with plain_path():
        plain = answers_and_gradients(store, batch)
        # A normalised layer whose units are almost equal makes much of the last bit: of the kernels' as of the inputs'.
        near = answers_and_gradients(store, replace(batch, inputs=_in_the_last_bits(batch.inputs)))
    tolerance = 1e-5 if store.dtype == torch.float32 else 1e-12
    assert len(fused) == len(plain) > 1
    sizes = [float(one.abs().max() + 1) for one in plain]
    tolerance += 8 * max(
        float((one - other).abs().max()) / size for one, other, size in zip(near, plain, sizes, strict=True)
    )
    for one, other, size in zip(fused, plain, sizes, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * size)
    torch.testing.assert_close(store.logits(batch), fused[0], rtol=tolerance, atol=tolerance)


def _in_the_last_bits(inputs: Tensor) -> Tensor:
    """Return inputs that differ by two of their last bits, up and down in turns."""
    ends = torch.where(torch.arange(inputs.numel()).view_as(inputs) % 2 == 0, torch.inf, -torch.inf).to(inputs.dtype)
    return torch.nextafter(torch.nextafter(inputs, ends), ends)


@settings(max_examples=80, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    dtype=st.sampled_from(["float32", "float64"]),
    inputs=st.integers(1, 9),
    hidden=st.lists(st.integers(2, 9), max_size=3),
    activation=st.sampled_from(["relu", "gelu", "silu", "tanh"]),
    normalisation=st.sampled_from(["layer", "none"]),
    bias=st.sampled_from(["bound", "shared"]),
    expansion=st.sampled_from([1, 3]),
    rows=st.integers(1, 9),
    mixed=st.booleans(),
)
def test_every_network_answers_and_learns_the_same(
    family: str, dtype: str, inputs: int, hidden: list[int], activation: str, normalisation: str, bias: str,
    expansion: int, rows: int, mixed: bool,
) -> None:  # fmt: skip
    store = store_of(
        family, dtype, inputs=inputs, hidden=tuple(hidden), activation=activation,
        normalisation=normalisation, bias=bias, expansion=expansion,
    )  # fmt: skip
    with torch.no_grad():  # an expanded layer starts at 0
        for weights in store.network.parameters():
            weights += torch.linspace(-0.1, 0.1, weights.numel(), dtype=weights.dtype).view_as(weights)
    compare(store, rows, mixed=mixed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bias", ["bound", "shared"])
def test_what_is_learned_is_the_same(family: str, bias: str) -> None:
    stores = [store_of(family, "float64", bias=bias) for _ in range(2)]
    for seed in range(3):
        draw = np.random.default_rng(seed)
        rows, classes = draw.normal(size=(8, 7)), draw.integers(0, 3, 8).tolist()
        learn(stores[0], f"t{seed}", rows, classes)
        with plain_path():
            learn(stores[1], f"t{seed}", rows, classes)
    for one, other in zip(stores[0].state().values(), stores[1].state().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", ["phase", "binary"])
def test_many_rows_and_threads(family: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_kernels, "PARALLEL_FROM", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 33, 256, 700):
            compare(store_of(family, hidden=(32,)), rows, mixed=True)
            assert torch.get_num_threads() == threads  # numba's threads are others
    finally:
        torch.set_num_threads(before)


def test_what_is_not_finite_stays_so() -> None:
    store = store_of("phase")
    batch = store.batch("t0", np.full((2, 7), 3e38))
    assert not torch.isfinite(store.logits(batch)).all()


def test_rotations_and_contexts_with_a_gradient_take_the_plain_path() -> None:
    store = store_of("rotation")
    batch = batch_of(store, 3, mixed=False)
    assert not store.network._fused.can_run(batch.inputs, store.bindings(batch))  # type: ignore[union-attr]
    store.logits(batch)
    store = store_of("phase")
    bindings = store.bindings(batch)
    bindings["layers.1"].contexts.requires_grad_()
    assert not store.network._fused.can_run(batch.inputs, bindings)  # type: ignore[union-attr]
    assert not store.network._fused.can_run(batch.inputs.clone().requires_grad_(), store.bindings(batch))  # type: ignore[union-attr]


def test_preparing_compiles_and_changes_nothing() -> None:
    store = store_of("phase", hidden=(64, 64))
    before = store.digest()
    store.prepare()
    store_of("rotation").prepare()
    assert store.digest() == before


@pytest.mark.parametrize("family", [*FAMILIES, "rotation"])
def test_tasks_with_few_of_the_outputs_answer_on_every_path(family: str) -> None:
    store = store_of(family, outputs=8)
    rows = np.random.default_rng(0).normal(size=(4, 7))
    learn(store, "t0", rows, [0, 1, 2, 0])
    found = store.logits(store.batch("t0", rows))
    with plain_path():
        plain = store.logits(store.batch("t0", rows))
    assert found.shape == plain.shape == (4, 8)
    torch.testing.assert_close(found[:, :3], plain[:, :3], atol=1e-5, rtol=1e-4)


_TAUGHT = """
import numpy as np, torch
torch.set_num_threads(1)
from superposed import MLPConfig, OptimizerConfig, StoreConfig, TaskSchema, WeightStore, learn, seeded_secret
for family, expansion in (("phase", 4), ("binary", 1), ("complex", 2)):
    network = MLPConfig(inputs=20, hidden=(64, 64), outputs=5, expansion=expansion)
    config = StoreConfig(network=network, family=family, optimizer=OptimizerConfig(learning_rate=1e-2))
    store, draw = WeightStore(config, secret=seeded_secret(0)), np.random.default_rng(0)
    store.register(TaskSchema(key="a", inputs=20, outputs=5))
    for _ in range(3):
        x = draw.normal(size=(37, 20))
        learn(store, "a", x.tolist(), x[:, :5].argmax(1).tolist())
    print(store.digest())
"""


def test_kernels_from_the_cache_make_the_bits_that_compiled_ones_make(tmp_path: Path) -> None:
    """A compiler that may order sums does so differently where it inlines: a replay in another process would differ."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    found = [
        subprocess.run([sys.executable, "-c", _TAUGHT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert found[0].stdout == found[1].stdout
    assert found[0].stdout.count("\n") == 3
