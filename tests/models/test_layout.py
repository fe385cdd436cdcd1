"""The result of an update does not depend on where a context stands in memory, nor on requests before it.

The same updates go to three stores: one that does nothing else, one that answers random requests in between,
and one that is written and read again in between. Their digests must stay equal, bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, learn, seeded_secret
from superposed.config import ModuleConfig, NetworkConfig, RehearsalConfig
from superposed.learning.consolidation import consolidate
from superposed.learning.online import apply
from superposed.tasks.targets import read_targets

FAMILIES = ["phase", "binary", "complex", "cyclic", "rotation"]
TASKS = [f"t{number}" for number in range(6)]
CONTEXTS = 20  # so few that some are evicted now and then
REHEARSAL = RehearsalConfig(rows_per_task=20, ratio=1.5, logit_share=0.5)


def convolutions() -> nn.Module:
    """Few outputs for many places and the reverse, so that kernels are bound and patches too."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 40, 3, stride=3), nn.Tanh(), nn.Flatten(),
        nn.Linear(160, 11), nn.LayerNorm(11), nn.Linear(11, 3),
    )  # fmt: skip


def mlp(inputs: int, *hidden: int, **more: Any) -> MLPConfig:
    return MLPConfig(inputs=inputs, hidden=hidden, outputs=3, **more)


NETWORKS: dict[str, NetworkConfig] = {
    "odd": mlp(8, 24, 24),  # with the constant 9 and 25 features
    "even": mlp(7, 23, 23),
    "shared bias": mlp(9, 25, bias="shared"),
    "wide": mlp(256, 65, activation="silu"),
    "wrapped": ModuleConfig(factory=f"{__name__}:convolutions", input_shape=(1, 6, 6), outputs=3),
}


def new_store(network: NetworkConfig, family: str, optimizer: str) -> WeightStore:
    config = plain_config(
        network=network,
        family=family,
        optimizer=OptimizerConfig(name=optimizer, learning_rate=1e-2),
        rehearsal=REHEARSAL,
    )
    needed = WeightStore(config, secret=seeded_secret(2)).contexts.bytes_per_context
    store = WeightStore(config.replace(context_table_bytes=CONTEXTS * needed), secret=seeded_secret(2))
    for key in TASKS[:4]:
        store.register(TaskSchema(key=key, inputs=network.inputs, outputs=3))
    for key in TASKS[4:]:
        store.register(TaskSchema(key=key, inputs=network.inputs, outputs=3, group=TASKS[0]))
    return store


def contexts(draw: random.Random, family: str) -> str:
    first, second = draw.sample(TASKS, 2)
    kinds = [first, first, f"mix({first}:0.3,{second}:0.7)"]
    return draw.choice(kinds if family == "binary" else [*kinds, f"{first}^0.5"])


def changes(seed: int, family: str, inputs: int) -> Iterator[Callable[[WeightStore], object]]:
    """The same sequence of changes for every store."""
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    for number in range(16):
        rows = draw.choice([1, 1, 2, 5, 16])
        inputs_, targets = numbers.normal(size=(rows, inputs)), numbers.integers(0, 3, rows).tolist()
        steps = draw.choice([1, 1, 2])
        if number % 8 == 7:
            yield lambda store: consolidate(store, 2)
        elif draw.random() < 0.5:
            one = contexts(draw, family)
            yield lambda store, a=(one, inputs_, targets), s=steps: learn(store, *a, steps=s)
        else:
            several = [contexts(draw, family) for _ in range(rows)]
            yield lambda store, a=(several, inputs_, targets), s=steps: learn_each(store, *a, steps=s)


def learn_each(store: WeightStore, several: list[str], inputs: Any, targets: list[int], *, steps: int) -> None:
    batch = store.batch_per_row(several, list(inputs))
    apply(store, batch, read_targets(batch, targets, 3), steps=steps)


def ask(store: WeightStore, draw: random.Random, family: str) -> None:
    """Random inference, which moves contexts about in the table."""
    for _ in range(draw.randrange(4)):
        several = [contexts(draw, family) for _ in range(draw.choice([1, 3, 7]))]
        rows = np.asarray([[draw.gauss(0, 1)] * store.config.network.inputs for _ in several])
        store.logits(store.batch_per_row(several, list(rows)))
        if draw.random() < 0.2:
            store.contexts.evict(store.resolve(draw.choice(TASKS)).context)


CASES = [
    (family, name, threads)
    for family in FAMILIES
    for name in NETWORKS
    for threads in ([1, 2] if name in {"wide", "wrapped"} else [1])
    if (family, name) != ("complex", "wrapped")  # wrapped networks have real features
]


@pytest.mark.parametrize(("family", "name", "threads"), CASES)
def test_updates_with_inference_between_them_have_the_same_digest(family: str, name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _compare(family, NETWORKS[name], seed=CASES.index((family, name, threads)))
    finally:
        torch.set_num_threads(before)


def _compare(family: str, network: NetworkConfig, seed: int) -> None:
    optimizer = ("rmsprop", "adam", "sgd")[seed % 3]
    alone, asked, reread = (new_store(network, family, optimizer) for _ in range(3))
    draw = random.Random(-seed)
    for change in changes(seed, family, network.inputs):
        ask(asked, draw, family)
        if draw.random() < 0.2:
            reread = WeightStore.from_bytes(reread.to_bytes())
        for store in (alone, asked, reread):
            change(store)
        assert asked.digest() == alone.digest(), f"after {alone.sequence}"
        assert reread.digest() == alone.digest(), f"after {alone.sequence}"
