"""Baselines of the demo, on the same rows in the same order: one plain network, and one network a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from demo.demo_tasks import DemoTask
from experiments.jobs import Stream
from superposed.config import MLPConfig, OptimizerConfig
from superposed.nn.optimizers import Optimizer

# Accuracy of each task after each number of tasks learned, (K, K), NaN before a task was learned.
Curves = NDArray[np.float64]


@dataclass
class _Learner:
    network: nn.Module
    optimizer: Optimizer | torch.optim.Optimizer
    schedule: LRScheduler | None = None


def plain_network(network: MLPConfig, optimizer: OptimizerConfig, tasks: Sequence[DemoTask]) -> Curves:
    """Teach all tasks to one ordinary network of the store's layers, with its optimizer and steps."""
    plain = _network(network, seed=0)
    groups = [{"params": list(plain.parameters()), "lr": optimizer.learning_rate}]
    learner = _Learner(plain, Optimizer(optimizer, groups))
    return _curves([learner] * len(tasks), tasks, network.inputs, optimizer.steps)


def separate_networks(budget: int, steps: int, tasks: Sequence[DemoTask]) -> Curves:
    """Teach one small network a task, with Adam on a cosine schedule; together they have `budget` weights."""
    learners = []
    for seed, task in enumerate(tasks):
        inputs, outputs = task.data.features, len(task.data.labels)
        # (inputs + 1) units + (units + 1) outputs = budget / K
        units = max(1, math.floor((budget / len(tasks) - outputs) / (inputs + 1 + outputs)))
        small = MLPConfig(inputs=inputs, hidden=(units,), outputs=outputs, normalisation="none")
        network = _network(small, seed)
        adam = torch.optim.Adam(network.parameters(), lr=1e-2)
        learners.append(_Learner(network, adam, CosineAnnealingLR(adam, steps * len(task.batches(seed=0)))))
    return _curves(learners, tasks, None, steps)


def _network(config: MLPConfig, seed: int) -> nn.Sequential:
    sizes = (config.inputs, *config.hidden, config.outputs)
    parts: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for wide, narrow in pairwise(sizes[:-1]):
            parts += [nn.Linear(wide, narrow), nn.ReLU()]
            if config.normalisation == "layer":
                parts.append(nn.LayerNorm(narrow, elementwise_affine=False))
        parts.append(nn.Linear(sizes[-2], sizes[-1]))
    return nn.Sequential(*parts)


def _curves(learners: Sequence[_Learner], tasks: Sequence[DemoTask], width: int | None, steps: int) -> Curves:
    """Teach task after task, and measure all that were taught after each; rows are padded to `width`."""

    def logits(place: int, values: NDArray[np.float32]) -> Tensor:
        scaled = tasks[place].scaled(values)
        padded = np.pad(scaled, ((0, 0), (0, (width or scaled.shape[1]) - scaled.shape[1])))
        answer: Tensor = learners[place].network(torch.from_numpy(padded))
        return answer[:, : len(tasks[place].data.labels)]  # a task's rows teach its own outputs only

    curves = np.full((len(tasks), len(tasks)), np.nan)
    for now, (learner, task) in enumerate(zip(learners, tasks, strict=True)):
        for chosen in (chosen for chosen in task.batches(seed=now) for _ in range(steps)):
            learner.optimizer.zero_grad()
            targets = torch.from_numpy(task.data.train_y[chosen])
            torch.autograd.backward(F.cross_entropy(logits(now, task.data.train_x[chosen]), targets))
            learner.optimizer.step()
            if learner.schedule is not None:
                learner.schedule.step()
        with torch.inference_mode():
            for before, known in enumerate(tasks[: now + 1]):
                found = logits(before, known.data.test_x).argmax(1).numpy()
                curves[before, now] = float((found == known.data.test_y).mean())
    return curves


def shared_network(streams: Sequence[Stream], epochs: int = 5, steps: int = 3) -> Curves:
    """Teach one ordinary network all tasks in order, whatever their labels mean; rows in standard units, padded."""
    width, outputs = max(one.x.shape[1] for one in streams), max(one.classes for one in streams)
    network = _network(MLPConfig(inputs=width, outputs=outputs), seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def scaled(one: Stream, rows: NDArray[np.float64]) -> Tensor:
        spread = one.x.std(0)
        found = (rows - one.x.mean(0)) / np.where(spread == 0, 1.0, spread)
        return torch.from_numpy(np.pad(found, ((0, 0), (0, width - found.shape[1])))).float()

    curves = np.full((len(streams), len(streams)), np.nan)
    for now, task in enumerate(streams):
        random, x, y = np.random.default_rng(now), scaled(task, task.x), torch.from_numpy(task.y)
        for order in (random.permutation(len(x)) for _ in range(epochs)):
            for rows in (order[start : start + 16] for start in range(0, len(order), 16) for _ in range(steps)):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(network(x[rows])[:, : task.classes], y[rows]))
                optimizer.step()
        with torch.inference_mode():
            for before, known in enumerate(streams[: now + 1]):
                found = network(scaled(known, known.test_x))[:, : known.classes].argmax(1).numpy()
                curves[before, now] = float((found == known.test_y).mean())
    return curves
