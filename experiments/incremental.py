"""Output interference: the labels change between tasks while one output layer stays (the paper's 4.1.3).

Ten classes come in five blocks of two, one block after another, and every block uses the same two outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from experiments.images import Images, load_images
from experiments.learners import Identity
from experiments.report import machine, write_json
from superposed.config import Config, ConvNetConfig, OptimizerConfig, RehearsalConfig, StoreConfig
from superposed.contexts import Binding, seeded_secret
from superposed.learning.online import apply
from superposed.nn import build
from superposed.nn.optimizers import Optimizer
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["METHODS", "IncrementalConfig", "run"]

Method: TypeAlias = Literal["none", "superposed", "rehearsed", "multi-head"]
METHODS: tuple[Method, ...] = ("none", "superposed", "rehearsed", "multi-head")
BLOCKS, PER_BLOCK = 5, 2
_STEPS = 500


class IncrementalConfig(Config):
    """One run.

    Args:
        method: One context for all blocks; one for each; the same with kept rows; or, without contexts, two
            outputs for each block.
        dataset: `mnist`, or `cifar10`.
        steps: Of each block.
        batch: Rows a step.
        channels: Of the ConvNet's convolutions.
        learning_rate: Adam's.
        kept_rows: Of each block (rehearsed).
        seed: Of everything drawn.
    """

    method: Method
    dataset: Literal["mnist", "cifar10"] = "mnist"
    steps: int = Field(_STEPS, ge=1)
    batch: int = Field(64, ge=1)
    channels: tuple[int, ...] = (16, 32)
    learning_rate: float = Field(1e-3, gt=0)
    kept_rows: int = Field(500, ge=0)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        length = "" if self.steps == _STEPS else f"-steps{self.steps}"
        return f"{self.dataset}-{self.method}{length}-seed{self.seed}"

    def network(self, images: Images, outputs: int) -> ConvNetConfig:
        """Return the ConvNet."""
        return ConvNetConfig(input_shape=images.shape, channels=self.channels, outputs=outputs)


class _Store:
    """A weight store with a context for every block, or one for all."""

    def __init__(self, config: IncrementalConfig, images: Images) -> None:
        kept = config.kept_rows if config.method == "rehearsed" else 0
        self._store = WeightStore(
            StoreConfig(
                network=config.network(images, PER_BLOCK),
                optimizer=OptimizerConfig(name="adam", steps=1, learning_rate=config.learning_rate),
                rehearsal=RehearsalConfig(rows_per_task=kept, own_ratio=0.0, least_rows=0, logit_share=0.0),
            ),
            secret=seeded_secret(config.seed),
        )
        self._one = config.method == "none"
        for block in range(BLOCKS):
            schema = TaskSchema(key=f"block{block}", inputs=images.features, outputs=PER_BLOCK)
            self._store.register(schema)

    def _batch(self, block: int, x: Tensor) -> Batch:
        return Batch((self._store.resolve(f"block{0 if self._one else block}"),), None, x)

    def step(self, block: int, x: Tensor, y: Tensor) -> None:
        apply(self._store, self._batch(block, x), Targets(y, None))

    def logits(self, block: int, x: Tensor) -> Tensor:
        return self._store.logits(self._batch(block, x))


class _MultiHead:
    """The same network without contexts, with two outputs for each block."""

    def __init__(self, config: IncrementalConfig, images: Images) -> None:
        network = config.network(images, BLOCKS * PER_BLOCK)
        self._network = build(network, Identity(), config.seed, torch.float32)
        optimizer = OptimizerConfig(name="adam", steps=1, learning_rate=config.learning_rate)
        groups = [{"params": list(self._network.parameters()), "lr": optimizer.learning_rate}]
        self._optimizer = Optimizer(optimizer, groups)
        self._bindings = {name: Binding(torch.ones(1)) for name in self._network.superposed_layers()}

    def _answer(self, block: int, x: Tensor) -> Tensor:
        answer: Tensor = self._network(x, self._bindings)
        return answer[:, block * PER_BLOCK : (block + 1) * PER_BLOCK]

    def step(self, block: int, x: Tensor, y: Tensor) -> None:
        self._optimizer.zero_grad()
        F.cross_entropy(self._answer(block, x), y).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self._optimizer.step()

    def logits(self, block: int, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._answer(block, x)


def run(config: IncrementalConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run one method and write `results/<name>.json`.

    Returns:
        Configuration, machine, and after each block the accuracy (percent) on every block so far.
    """
    images = load_images(config.dataset)
    learner = _MultiHead(config, images) if config.method == "multi-head" else _Store(config, images)
    train = [_block(images.train_x, images.train_y, block) for block in range(BLOCKS)]
    test = [_block(images.test_x, images.test_y, block) for block in range(BLOCKS)]
    random = np.random.default_rng(config.seed)
    after: list[list[float]] = []
    with tqdm(total=BLOCKS * config.steps, desc=config.name, unit="step", disable=not progress) as bar:
        for block, (x, y) in enumerate(train):
            for _ in range(config.steps):
                rows = torch.from_numpy(random.integers(0, len(x), config.batch))
                learner.step(block, x[rows], y[rows])
                bar.update()
            after.append([_accuracy(learner, earlier, *test[earlier]) for earlier in range(block + 1)])
    result = {
        "config": config.model_dump(),
        "machine": machine(),
        "after": after,
        "each": after[-1],
        "mean": float(np.mean(after[-1])),
    }
    write_json(results / f"{config.name}.json", result)
    return result


def _block(x: Tensor, y: Tensor, block: int) -> tuple[Tensor, Tensor]:
    mine = (y // PER_BLOCK) == block
    return x[mine], y[mine] % PER_BLOCK


def _accuracy(learner: _Store | _MultiHead, block: int, x: Tensor, y: Tensor) -> float:
    return 100.0 * float((learner.logits(block, x).argmax(1) == y).double().mean())
