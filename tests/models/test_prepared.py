"""The fused kernels answer as the plain network does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superposed import WeightStore, learn
from superposed.nn import FusedMLP
from superposed.nn.layers import fused_kernels
from tests.helpers.small_stores import store_of

FAMILIES = ("phase", "complex", "cyclic", "binary")


def compare(store: WeightStore, rows: int, *, mixed: bool) -> None:
    draw = np.random.default_rng(rows)
    inputs = draw.normal(size=(rows, store.config.network.inputs))
    contexts = [f"t{number}" for number in draw.integers(0, 5, rows)]
    batch = store.batch_per_row(contexts, list(inputs)) if mixed else store.batch("t1", inputs)
    with torch.no_grad():
        plain = store.network(batch.inputs, store.bindings(batch))
    tolerance = 1e-5 if store.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(store.logits(batch), plain, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    dtype=st.sampled_from(["float32", "float64"]),
    inputs=st.integers(1, 9),
    hidden=st.lists(st.integers(2, 9), max_size=3),
    activation=st.sampled_from(["relu", "gelu", "silu", "tanh"]),
    normalisation=st.sampled_from(["layer", "none"]),
    bias=st.sampled_from(["bound", "shared"]),
    rows=st.integers(1, 9),
    mixed=st.booleans(),
)
def test_every_network_answers_the_same(
    family: str, dtype: str, inputs: int, hidden: list[int], activation: str, normalisation: str, bias: str,
    rows: int, mixed: bool,
) -> None:  # fmt: skip
    store = store_of(
        family, dtype, inputs=inputs, hidden=tuple(hidden), activation=activation,
        normalisation=normalisation, bias=bias,
    )  # fmt: skip
    assert isinstance(store._answerer.plain, FusedMLP)
    compare(store, rows, mixed=mixed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bias", ["bound", "shared"])
def test_what_is_learned_is_answered(family: str, bias: str) -> None:
    store = store_of(family, bias=bias)
    compare(store, 4, mixed=True)
    for seed in range(3):
        draw = np.random.default_rng(seed)
        learn(store, f"t{seed}", draw.normal(size=(8, 7)), draw.integers(0, 3, 8).tolist())
        compare(store, 4, mixed=True)
    other = store_of(family, bias=bias)
    other.adopt(store)
    compare(other, 4, mixed=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", ["phase", "binary"])
def test_many_rows_and_threads(family: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_kernels, "_PARALLEL_FROM", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for rows in (1, 33, 256, 700):
        compare(store_of(family, hidden=(32,)), rows, mixed=True)


def test_what_is_not_finite_stays_so() -> None:
    store = store_of("phase")
    batch = store.batch("t0", np.full((2, 7), 3e38))
    assert not torch.isfinite(store.logits(batch)).all()


def test_without_numba_and_for_rotations_there_is_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_of("rotation")._answerer.plain is not None
    assert not isinstance(store_of("rotation")._answerer.plain, FusedMLP)
    monkeypatch.setattr(fused_kernels, "numba", None)
    store = store_of("phase")
    assert store._answerer.plain is store.network
    compare(store, 5, mixed=True)


def test_preparing_compiles_and_changes_nothing() -> None:
    store = store_of("phase", hidden=(64, 64))
    before = store.digest()
    store.prepare()
    store_of("rotation").prepare()
    assert store.digest() == before
