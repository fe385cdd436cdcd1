"""Recorded work answers as the plain network does. Here nothing is recorded: the work is run each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import device
from superposed import WeightStore, learn
from superposed.contexts import FAMILIES
from superposed.nn import MLP, CudaGraphMLP, cuda_graph_runtime
from superposed.store import inference
from superposed.store.inference import InferenceRunner
from tests.helpers.small_stores import store_of

RECORDABLE = sorted(set(FAMILIES) - {"rotation"})


class Recorder:
    """Counts what would be recorded."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        return work


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def recording(store: WeightStore, precision: torch.dtype | None = None) -> tuple[CudaGraphMLP, Recorder]:
    recorder = Recorder()
    assert isinstance(store.network, MLP)
    return CudaGraphMLP(
        store.network, precision or store.dtype, record=recorder, compile_=uncompiled
    ), recorder


def compare(store: WeightStore, ready: CudaGraphMLP, rows: int, tasks: int, tolerance: float) -> None:
    random = np.random.default_rng(rows)
    contexts = [f"t{number}" for number in random.integers(0, tasks, rows)]
    batch = store.batch_per_row(contexts, random.normal(size=(rows, 7)))
    with torch.no_grad():
        plain = store.network(batch.inputs, store.bindings(batch))
        by_row = store.contexts.bind_rows([part.context for part in batch.parts], batch.places())
        found = ready(batch.inputs, by_row)
    torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", RECORDABLE)
@pytest.mark.parametrize("bias", ["bound", "shared"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_of_every_family_and_many_sizes(
    family: str, bias: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph_runtime, "SIZES", (1, 4, 16))
    store = store_of(family, dtype, bias=bias, activation="gelu")
    ready, recorder = recording(store)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for rows in (1, 2, 4, 16, 17, 50, 3):
        compare(store, ready, rows, tasks=2, tolerance=tolerance)
    assert recorder.recorded == 3  # each size once: the second task had a place in the table from the start


@pytest.mark.parametrize("family", ["phase", "complex"])
def test_what_is_learned_is_answered_and_a_table_that_moves_is_recorded_anew(family: str) -> None:
    store = store_of(family, tasks=9)
    ready, recorder = recording(store)
    for number in range(9):
        random = np.random.default_rng(number)
        learn(store, f"t{number}", random.normal(size=(8, 7)), random.integers(0, 3, 8).tolist())
        compare(store, ready, 5, tasks=number + 1, tolerance=1e-5)
    assert 2 <= recorder.recorded <= 4  # the table doubled twice or thrice


def test_products_in_another_precision() -> None:
    store = store_of(tasks=9)
    ready, _ = recording(store, torch.bfloat16)
    compare(store, ready, 30, tasks=9, tolerance=0.05)
    with pytest.raises(AssertionError):
        compare(store, ready, 30, tasks=9, tolerance=1e-5)


def test_the_benchmark_of_a_gpu_measures_what_it_says() -> None:
    """On the CPU in a GPU's place, where its figures mean nothing but its work is the same."""
    how = device.Recording(torch.device("cpu"))
    found = device.measure("phase", 32, 16, how, turns=3, repeats=2)
    milliseconds = found["ms"]
    assert found["plain_over_mixed"] == pytest.approx(milliseconds["plain"] / milliseconds["mixed"])
    operations = 2 * 16 * (784 * 32 + 32 * 32 + 32 * 32 + 32 * 10)
    peak = max(2 * 16 * 32 * 32 / milliseconds["product"], 2 * 64**3 / milliseconds["square"])
    assert found["mixed_of_peak"] == pytest.approx(operations / milliseconds["mixed"] / peak)
    moved = 2 * 16 * (32 + 34) + 16 * 34 * 4  # bfloat16 rows read and written, and each row's own context
    bandwidth = 2 * 2**20 / milliseconds["copy"]
    assert found["bind_of_bandwidth"] == pytest.approx(moved / milliseconds["bind"] / bandwidth)


class TestPreparing:
    """The answerer's part, on the CPU in a GPU's place."""

    def record(
        self, monkeypatch: pytest.MonkeyPatch, store: WeightStore, record: Callable[..., Any]
    ) -> tuple[InferenceRunner, str | None]:
        def make(network: MLP, precision: torch.dtype) -> CudaGraphMLP:
            return CudaGraphMLP(network, precision, record=record, compile_=uncompiled)

        monkeypatch.setattr(inference, "record_network", make)
        assert isinstance(store.network, MLP)
        answerer = InferenceRunner(store.network, store.contexts, torch.device("cpu"))
        return answerer, answerer._record(store.network, 7, store.dtype, store.dtype)

    def test_an_expanded_store_that_answers_0_so_far_is_recorded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, reason = self.record(monkeypatch, store_of(expansion=4), Recorder())
        assert reason is None

    def test_what_answers_alike_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store, recorder = store_of(), Recorder()
        answerer, reason = self.record(monkeypatch, store, recorder)
        assert reason is None
        assert recorder.recorded == len(cuda_graph_runtime.SIZES)
        one, mixed = store.batch("t3", np.ones((2, 7))), store.batch_per_row(["t1", "t2"], np.ones((2, 7)))
        for batch in (one, mixed):
            torch.testing.assert_close(answerer.logits(batch), store.logits(batch), rtol=1e-5, atol=1e-5)
            assert answerer._recorded is not None

    def test_what_breaks_later_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store, broken = store_of(), False

        def record(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                if broken:
                    raise RuntimeError("out of memory")
                work()

            return run

        answerer, reason = self.record(monkeypatch, store, record)
        assert reason is None
        batch, broken = store.batch("t3", np.ones((2, 7))), True
        for _ in range(2):
            torch.testing.assert_close(answerer.logits(batch), store.logits(batch))
        assert answerer._recorded is None

    def test_what_answers_otherwise_or_breaks_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def breaks(work: Callable[[], None]) -> Callable[[], None]:
            raise RuntimeError("no such driver")

        store = store_of()
        for record, expected in ((lambda _: lambda: None, "answers otherwise"), (breaks, "no such driver")):
            answerer, reason = self.record(monkeypatch, store, record)
            assert expected in str(reason)
            batch = store.batch("t3", np.ones((2, 7)))
            torch.testing.assert_close(answerer.logits(batch), store.logits(batch))
        assert "rotation" in str(self.record(monkeypatch, store_of("rotation"), Recorder())[1])
