"""The same store on a CUDA device: close to the CPU's answers, and deterministic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.plain import plain_config
from superposed import MLPConfig, TaskSchema, WeightStore, learn, retrieve_model, seeded_secret
from superposed.contexts import FAMILIES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_store_on_the_gpu_learns_and_answers_as_on_the_cpu(family: str) -> None:
    x = np.random.default_rng(0).normal(size=(64, 20))
    y = (x[:, 0] > 0).astype(int).tolist()
    config = plain_config(network=MLPConfig(inputs=20, hidden=(32, 32), outputs=2), family=family)  # type: ignore[arg-type]
    answers = []
    for device in ("cpu", "cuda"):
        store = WeightStore(config, secret=seeded_secret(1), device=device)
        for key in "ab":
            store.register(TaskSchema(key=key, inputs=20, outputs=2))
            for _ in range(10):
                learn(store, key, x, y)
        mixed = store.logits(store.batch_per_row(["a", "b"] * 32, x))
        loaded = WeightStore.from_bytes(store.to_bytes(), device=device)
        assert loaded.digest() == store.digest()
        torch.testing.assert_close(
            retrieve_model(store, "a")(torch.from_numpy(x[:1])), mixed[:1, :2], rtol=1e-3, atol=1e-3
        )
        answers.append(mixed)
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_inference_answers_as_the_plain_network_does(family: str, precision: torch.dtype | None) -> None:
    config = plain_config(network=MLPConfig(inputs=20, hidden=(32, 32), outputs=2), family=family)  # type: ignore[arg-type]
    store = WeightStore(config, secret=seeded_secret(1), device="cuda")
    for number in range(40):
        store.register(TaskSchema(key=f"t{number}", inputs=20, outputs=2))
    store.prepare(precision)
    random = np.random.default_rng(0)
    for rows in (1, 3, 70, 5000):
        x = random.normal(size=(rows, 20))
        learn(store, "t0", x[:32], [0] * len(x[:32]))
        batch = store.batch_per_row([f"t{number}" for number in random.integers(0, 40, rows)], x)
        with torch.no_grad():
            plain = store.network(batch.inputs.cuda(), store.bindings(batch)).cpu()
        tolerance = 1e-3 if precision is None else 5e-2 * float(plain.abs().max())
        torch.testing.assert_close(store.logits(batch), plain, rtol=tolerance, atol=tolerance)
