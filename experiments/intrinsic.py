"""Intrinsic dimension: how few directions of the weights a task needs, and how many weights can go.

Why is there room for many tasks at all? Because one needs little of it: training moves along a few random
directions almost as well as along all (Li et al. 2018), and after training most weights can be set to 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from experiments.images import Images, load_images
from experiments.learners import plain_mlp
from experiments.report import machine, write_json
from superposed.config import Config
from superposed.contexts import Context, ContextSource, ContextTable, TaskId, family_named, seeded_secret
from superposed.nn import MLP

__all__ = ["IntrinsicConfig", "run"]

_TEST_ROWS = 2000


class IntrinsicConfig(Config):
    """One run.

    Args:
        units: Of each of three hidden layers.
        dimensions: Numbers of random directions that training may move along; 0 stands for all weights.
        kept: Shares of each layer's weights that stay after training, the largest ones.
        steps: Of 128 rows.
        seed: Of everything drawn.
    """

    units: int = Field(256, ge=1)
    dimensions: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10_000, 0)
    kept: tuple[float, ...] = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
    steps: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        return f"units{self.units}-seed{self.seed}"


class _Subspace:
    """`w = w₀ + P θ`: P has one entry ±1/√n in each row, so that its columns are orthonormal."""

    def __init__(self, start: dict[str, Tensor], dimension: int, seed: int) -> None:
        self._start = start
        random = torch.Generator().manual_seed(seed)
        total = sum(value.numel() for value in start.values())
        self._place = torch.randint(dimension or total, (total,), generator=random)
        if not dimension:
            self._place = torch.arange(total)
        count = torch.bincount(self._place, minlength=dimension or total).clamp(min=1)
        signs = torch.rand(total, generator=random).sub(0.5).sign()
        self._entry = signs / count[self._place].sqrt()
        self.theta = torch.zeros(dimension or total, requires_grad=True)

    def weights(self) -> dict[str, Tensor]:
        moved = self.theta[self._place] * self._entry  # (weights,)
        parts = moved.split([value.numel() for value in self._start.values()])  # type: ignore[no-untyped-call]  # torch has no annotation there
        return {
            name: value + part.view_as(value) for (name, value), part in zip(self._start.items(), parts, strict=True)
        }


def run(config: IntrinsicConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Train one task along few directions, prune it, and write `results/<name>.json`.

    Returns:
        Configuration, machine, number of weights, and the accuracy (percent) by number of directions and by
        share of weights kept; `needed` is the fewest directions that reach 90 % of what all weights reach.
    """
    images = load_images()
    family = family_named("phase")
    net = MLP(
        plain_mlp(inputs=images.features, hidden=(config.units,) * 3),
        family,
        generator=torch.Generator().manual_seed(config.seed),
    )
    features = {name: layer.bound_features for name, layer in net.superposed_layers().items()}
    source = ContextSource(family, features, seeded_secret(config.seed))
    table = ContextTable(source, 2**24, torch.float32, torch.device("cpu"))
    bindings = table.bind_all(Context(((TaskId("task"), 1.0, None),)))
    start = {name: value.detach() for name, value in net.named_parameters()}

    def accuracy(weights: dict[str, Tensor]) -> float:
        with torch.no_grad():
            answers = functional_call(net, weights, (images.test_x[:_TEST_ROWS], bindings)).argmax(1)
        return 100.0 * float((answers == images.test_y[:_TEST_ROWS]).double().mean())

    by_dimension: dict[int, float] = {}
    trained = start
    for dimension in tqdm(config.dimensions, desc=config.name, unit="run", disable=not progress):
        trained = _train(net, bindings, start, images, config, dimension)
        by_dimension[dimension] = accuracy(trained)
    by_share = {share: accuracy(_pruned(trained, share)) for share in config.kept}
    goal = 0.9 * by_dimension[config.dimensions[-1]]
    reached = [dimension for dimension, seen in by_dimension.items() if dimension and seen >= goal]
    result = {
        "config": config.model_dump(),
        "machine": machine(),
        "weights": sum(value.numel() for value in start.values()),
        "accuracy_by_directions": {str(key): value for key, value in by_dimension.items()},
        "accuracy_by_share_kept": {str(key): value for key, value in by_share.items()},
        "needed": min(reached, default=None),
    }
    write_json(results / f"{config.name}.json", result)
    return result


def _train(
    net: MLP, bindings: Any, start: dict[str, Tensor], images: Images, config: IntrinsicConfig, dimension: int
) -> dict[str, Tensor]:
    """Return the weights after training along random directions."""
    space = _Subspace(start, dimension, config.seed)
    # One learning rate for all numbers of directions, and a smaller one along all weights.
    optimizer = torch.optim.Adam([space.theta], lr=1e-3 if not dimension else 3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    random = np.random.default_rng(config.seed)
    for _ in range(config.steps):
        rows = torch.from_numpy(random.integers(0, len(images.train_x), 128))
        logits = functional_call(net, space.weights(), (images.train_x[rows], bindings))
        optimizer.zero_grad()
        F.cross_entropy(logits, images.train_y[rows]).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        optimizer.step()
        schedule.step()
    return {name: value.detach() for name, value in space.weights().items()}


def _pruned(weights: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the network with all but the largest weights of each layer set to 0."""
    kept = {}
    for name, value in weights.items():
        count = max(1, round(share * value.numel()))
        limit = value.abs().flatten().kthvalue(value.numel() - count + 1).values
        kept[name] = torch.where(value.abs() >= limit, value, torch.zeros_like(value))
    return kept
