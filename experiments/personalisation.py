"""Personalisation: many related tasks with few rows each, and what they may share.

Fifty users, a hundred rows each. The digits are the same; every user has labels of their own (permuted), or
writes at an angle of their own (turned).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from experiments.images import Images, load_images, turned
from experiments.learners import NOTHING_KEPT, Separate, Standard, plain_mlp
from experiments.report import machine, write_json
from superposed.config import Config, MLPConfig, OptimizerConfig, StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.online import apply
from superposed.nn import LAYER_NORM_EPSILON, activate
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["METHODS", "PersonalConfig", "run"]

Method: TypeAlias = Literal[
    "shared", "random", "mixture", "group-1", "group-2", "group-3", "group-4", "own-outputs", "separate",
    "separate-8x",
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)
_TEST_ROWS = 2000
# As tuned, over 8, 16 and 32.
_SEPARATE_BATCH = 16


class PersonalConfig(Config):
    """One run.

    Args:
        method: One context for all; one of their own in all layers; 0.7 of the group's and 0.3 of their own;
            the group's in the first layers and their own in the last 1 to 4; or without contexts, layers
            that all share under an output layer of each user's own, of the same bytes in all; or separate
            networks of the same bytes in all, or eight times as many.
        drift: What users differ in: labels that are permuted, or an angle.
        users: How many.
        rows: Of each user.
        passes: Over all rows.
        units: Of each of three hidden layers.
        learning_rate: Adam's.
        seed: Of everything drawn.
    """

    method: Method
    drift: Literal["permuted", "turned"] = "permuted"
    users: int = Field(50, ge=1)
    rows: int = Field(100, ge=1)
    passes: int = Field(30, ge=1)
    units: int = Field(256, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        return f"{self.drift}-{self.method}-seed{self.seed}"


class _Users:
    """Every user's rows, and their view of the test set."""

    def __init__(self, config: PersonalConfig, images: Images) -> None:
        random = np.random.default_rng(config.seed)
        self._images, self._config = images, config
        self._labels = [torch.from_numpy(random.permutation(10)) for _ in range(config.users)]
        self._angles = random.uniform(size=config.users)
        rows = [torch.from_numpy(random.choice(len(images.train_x), config.rows)) for _ in range(config.users)]
        self.train = [self._view(user, images.train_x[own], images.train_y[own]) for user, own in enumerate(rows)]

    def _view(self, user: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self._config.drift == "permuted":
            return x, self._labels[user][y]
        return turned(x, float(self._angles[user]), self._images.mean), y

    def updates(self, *, progress: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pass over everybody's rows: rows, classes and whose they are, of many users at once."""
        x, y = (torch.cat([pair[part] for pair in self.train]) for part in (0, 1))
        owner = torch.arange(self._config.users).repeat_interleave(self._config.rows)
        order = torch.Generator().manual_seed(self._config.seed)
        for _ in tqdm(range(self._config.passes), self._config.name, unit="pass", disable=not progress):
            shuffled = torch.randperm(len(x), generator=order)
            for rows in (shuffled[start : start + 128] for start in range(0, len(x), 128)):
                yield x[rows], y[rows], owner[rows]

    def test(self, user: int) -> tuple[Tensor, Tensor]:
        """Return 2,000 test rows as the user sees them."""
        return self._view(user, self._images.test_x[:_TEST_ROWS], self._images.test_y[:_TEST_ROWS])


def run(config: PersonalConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run one method and write `results/<name>.json`: the accuracy (percent) of each user, and the mean."""
    images = load_images()
    users = _Users(config, images)
    network = plain_mlp(inputs=images.features, hidden=(config.units,) * 3, outputs=10)
    if config.method == "own-outputs":
        answer = _own_outputs(config, network, users, progress)
    elif config.method.startswith("separate"):
        answer = _separate(config, network, users)
    else:
        answer = _store(config, network, users, progress)
    each = []
    for user in range(config.users):
        x, y = users.test(user)
        each.append(100.0 * float((answer(user, x).argmax(1) == y).double().mean()))
    result = {
        "config": config.model_dump(), "machine": machine(), "each": each, "mean": float(np.mean(each)),
    }  # fmt: skip
    write_json(results / f"{config.name}.json", result)
    return result


def _store(config: PersonalConfig, network: MLPConfig, users: _Users, progress: bool) -> Any:
    """Run one store, taught by updates of rows of many users at once."""
    optimizer = OptimizerConfig(name="adam", learning_rate=config.learning_rate)
    store = WeightStore(
        StoreConfig(network=network, optimizer=optimizer, rehearsal=NOTHING_KEPT), secret=seeded_secret(config.seed)
    )
    store.register(TaskSchema(key="group", inputs=network.inputs, outputs=10))
    in_group = config.method.startswith("group")
    for user in range(config.users):
        schema = TaskSchema(
            key=f"u{user}",
            inputs=network.inputs,
            outputs=10,
            group="group" if in_group else None,
            own_layers=int(config.method[-1]) if in_group else None,
        )
        store.register(schema)
    text = {"shared": "group", "mixture": "mix(group:0.7,u{user}:0.3)"}.get(config.method, "u{user}")
    parts = tuple(store.resolve(text.format(user=user)) for user in range(config.users))
    for x, y, owners in users.updates(progress=progress):
        apply(store, Batch(parts, owners, x), Targets(y, None))

    def answer(user: int, rows: Tensor) -> Tensor:
        return store.logits(Batch((parts[user],), None, rows))

    return answer


class _OwnOutputs(nn.Module):
    """Hidden layers that all users share, normalised as a store's, and an output layer for each of them."""

    def __init__(self, network: MLPConfig, users: int, units: int) -> None:
        super().__init__()
        widths = (network.inputs, *[units] * len(network.hidden))
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.outputs = nn.ModuleList(nn.Linear(units, network.outputs) for _ in range(users))
        self._config = network

    def forward(self, x: Tensor, owners: Tensor) -> Tensor:
        """Answer rows (B, inputs), each with the output layer of its user (B,)."""
        for layer in self.layers:
            x = activate(layer(x), self._config.activation, self._config.normalisation, LAYER_NORM_EPSILON)
        weights = torch.stack([output.weight for output in self.outputs])[owners]  # type: ignore[misc]  # a Linear's
        biases = torch.stack([output.bias for output in self.outputs])[owners]  # type: ignore[misc]  # a Linear's
        return torch.baddbmm(biases[:, :, None], weights, x[:, :, None]).squeeze(2)


def _numbers(module: nn.Module) -> int:
    return sum(numbers.numel() for numbers in module.parameters())


def _own_outputs(config: PersonalConfig, network: MLPConfig, users: _Users, progress: bool) -> Any:
    """Run private output layers on hidden layers that are narrower, so that all is as large as the store."""
    torch.manual_seed(config.seed)
    budget = Standard(network, OptimizerConfig(), config.seed).weights
    units = config.units
    while _numbers(learner := _OwnOutputs(network, config.users, units)) > budget and units > 1:
        units -= 1
    optimizer = torch.optim.Adam(learner.parameters(), lr=config.learning_rate)
    for x, y, owners in users.updates(progress=progress):
        optimizer.zero_grad()
        F.cross_entropy(learner(x, owners), y).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        optimizer.step()

    def answer(user: int, rows: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = learner(rows, torch.full((len(rows),), user))
        return found

    return answer


def _separate(config: PersonalConfig, network: MLPConfig, users: _Users) -> Any:
    """Run a network for each user, of equal bytes in all or of eight times as many."""
    budget = Standard(network, OptimizerConfig(), config.seed).weights
    budget *= 8 if config.method == "separate-8x" else 1
    steps = config.passes * -(-config.rows // _SEPARATE_BATCH)
    learner = Separate(
        [(network.inputs, 10)] * config.users, budget, [steps] * config.users, config.learning_rate, config.seed
    )
    order = torch.Generator().manual_seed(config.seed)
    for user, (x, y) in enumerate(users.train):
        learner.begin(user)
        for _ in range(config.passes):
            shuffled = torch.randperm(len(x), generator=order)
            for start in range(0, len(x), _SEPARATE_BATCH):
                rows = shuffled[start : start + _SEPARATE_BATCH]
                learner.step(user, x[rows], y[rows])
    return learner.logits
