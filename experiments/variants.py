"""Other ways to more tasks in the same weights: each tried alone, beside what a store does.

Permuting MNIST with rehearsal, in a small network of its own, so that what a store has no option for can be
tried too: other contexts, vectors that belong to a task, penalties, gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from experiments.images import Images, load_images
from experiments.report import machine, write_json
from superposed.config import Activation, Config
from superposed.nn import LAYER_NORM_EPSILON, activate

__all__ = ["VARIANTS", "VariantConfig", "run"]


class VariantConfig(Config):
    """One run; the defaults are what a store does, but that its contexts are plain signs.

    Args:
        label: What the variant is called.
        hidden: Units of the hidden layers.
        activation: Between layers.
        normalisation: Of hidden layers, before binding.
        centred: Whether the training set's mean image is subtracted.
        contexts: Random signs; or rows of a Hadamard matrix times one vector of random signs, which are
            orthogonal where a layer's width is a power of two, else what is left of them in some columns.
        bias: Bound with a constant input, shared, or a trained vector of each task's own.
        own_scale: Whether each task has a trained vector that scales each layer's outputs.
        learning_rate: Adam's.
        rate: How it goes: the same for ever, to nothing within each task, or as one over the root of how many
            tasks there are.
        confident: Rows whose own class has a higher probability than that teach nothing; 1 for none.
        importance: Strength of a penalty on moving weights that were important to earlier tasks.
        kept_rows: Of each task, rehearsed beside every new batch; 0 for none.
        logit_share: Of a kept row's loss, what is the distance from its logits of when its task ended (a
            store keeps those of when it saw the row).
        tasks: K permutations.
        steps: Updates of 128 rows a task.
        seed: Of everything drawn.
    """

    label: str = "as-a-store"
    hidden: tuple[int, ...] = (128, 128, 128)
    activation: Activation = "relu"
    normalisation: Literal["layer", "none"] = "layer"
    centred: bool = True
    contexts: Literal["random", "hadamard"] = "random"
    bias: Literal["bound", "shared", "own"] = "bound"
    own_scale: bool = False
    learning_rate: float = Field(3e-4, gt=0)
    rate: Literal["constant", "falls-within-a-task", "falls-over-tasks"] = "constant"
    confident: float = Field(1.0, gt=0, le=1)
    importance: float = Field(0.0, ge=0)
    kept_rows: int = Field(2000, ge=0)
    logit_share: float = Field(0.0, ge=0, le=1)
    tasks: int = Field(25, ge=1)
    steps: int = Field(200, ge=8)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        return f"{self.label}-seed{self.seed}"


# Other depths have the weights of three layers of 128, to one in a hundred.
VARIANTS: dict[str, dict[str, Any]] = {
    "as-a-store": {},
    "no-normalisation": {"normalisation": "none"},
    "not-centred": {"centred": False},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu"},
    "tanh": {"activation": "tanh"},
    "hadamard": {"contexts": "hadamard", "hidden": (127, 127, 127)},
    "shared-bias": {"bias": "shared"},
    "own-bias": {"bias": "own"},
    "own-bias-and-scale": {"bias": "own", "own_scale": True},
    "one-layer": {"hidden": (169,)},
    "two-layers": {"hidden": (144, 144)},
    "five-layers": {"hidden": (109,) * 5},
    "rate-1e-4": {"learning_rate": 1e-4},
    "rate-1e-3": {"learning_rate": 1e-3},
    "rate-falls-within-a-task": {"rate": "falls-within-a-task", "learning_rate": 6e-4},
    "rate-falls-over-tasks": {"rate": "falls-over-tasks", "learning_rate": 1e-3},
    "unsure-rows-only": {"confident": 0.9},
    "importance-1": {"importance": 1.0},
    "importance-100": {"importance": 100.0},
    "logits-half": {"logit_share": 0.5},
    "kept-500": {"kept_rows": 500},
    "nothing-kept": {"kept_rows": 0},
}


def _hadamard(order: int) -> Tensor:
    """Return Sylvester's matrix of signs, (order, order), order a power of two: its rows are orthogonal."""
    seed = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return reduce(torch.kron, [seed] * (order.bit_length() - 1), torch.ones(1, 1))


class _Network:
    """Layers, every task's signs for each, and what else belongs to a task.

    Args:
        config: What is tried.
        sizes: Of the layers, inputs first.
        random: Draws weights and signs.
    """

    def __init__(self, config: VariantConfig, sizes: Sequence[int], random: torch.Generator) -> None:
        self._config = config
        constant = config.bias == "bound"  # one more input, always 1
        self._weights: list[Tensor] = []
        self._biases: list[Tensor] = []
        self._scales: list[Tensor] = []
        self._contexts: list[Tensor] = []  # (tasks, width) of each layer
        rows = config.tasks if config.bias == "own" else 1
        for inputs, outputs in pairwise(sizes):
            width = inputs + constant
            weight = torch.randn(outputs, width, generator=random) * (2 / width) ** 0.5
            self._weights.append(weight.requires_grad_())
            self._biases.append(torch.zeros(rows, outputs, requires_grad=not constant))
            self._scales.append(torch.ones(config.tasks, outputs, requires_grad=config.own_scale))
            self._contexts.append(_signs(config, width, random))

    @property
    def parameters(self) -> list[Tensor]:
        own = [*self._weights, *self._biases, *self._scales]
        return [numbers for numbers in own if numbers.requires_grad]

    @property
    def shared(self) -> list[Tensor]:
        return self._weights

    @property
    def own_numbers(self) -> int:
        """Number of trained numbers that each task has of its own."""
        own = [*self._biases, *self._scales]
        return sum(rows[0].numel() for rows in own if rows.requires_grad and len(rows) > 1)

    def __call__(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Answer rows (B, inputs), each under its own task's contexts (B,)."""
        last = len(self._weights) - 1
        for place, weight in enumerate(self._weights):
            if self._config.bias == "bound":
                x = F.pad(x, (0, 1), value=1.0)
            x = F.linear(x * self._contexts[place][tasks], weight)
            bias = self._biases[place]
            x = x * self._scales[place][tasks] + (bias[tasks] if len(bias) > 1 else bias)
            if place < last:
                x = activate(x, self._config.activation, self._config.normalisation, LAYER_NORM_EPSILON)
        return x


def _signs(config: VariantConfig, width: int, random: torch.Generator) -> Tensor:
    """Return every task's signs for a layer of that width, (tasks, width)."""
    if config.contexts == "random":
        return _random_signs(config.tasks, width, random=random)
    order = 1 << (max(width, config.tasks) - 1).bit_length()
    rows, columns = (torch.randperm(order, generator=random) for _ in range(2))
    return _hadamard(order)[rows[: config.tasks]][:, columns[:width]] * _random_signs(width, random=random)


def _random_signs(*sizes: int, random: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, sizes, generator=random) - 1.0


class _Memory:
    """Kept rows of every task so far, in its own order of pixels, with what they were answered at its end."""

    def __init__(self, random: torch.Generator) -> None:
        self._random = random
        self._tasks: list[tuple[Tensor, Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self._tasks)

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        self._tasks.append((x, y, logits))

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return rows, classes, logits, and the rows' tasks."""
        tasks = torch.randint(len(self._tasks), (count,), generator=self._random)
        places = torch.randint(len(self._tasks[0][0]), (count,), generator=self._random)
        pairs = list(zip(tasks.tolist(), places.tolist(), strict=True))
        x, y, logits = (torch.stack([self._tasks[t][part][row] for t, row in pairs]) for part in range(3))
        return x, y, logits, tasks


class _Anchor:
    """A quadratic penalty on moving weights, as important as their gradients were large (online EWC)."""

    def __init__(self, weights: Sequence[Tensor], strength: float) -> None:
        self._weights, self._strength = weights, strength
        self._anchors: list[Tensor] = []
        self._importance = [torch.zeros_like(weight) for weight in weights]

    def penalty(self) -> Tensor | float:
        if not self._anchors:
            return 0.0
        terms = zip(self._importance, self._weights, self._anchors, strict=True)
        return self._strength * sum((much * (now - then).square()).sum() for much, now, then in terms)

    def end(self, loss_of: Callable[[int], Tensor]) -> None:
        """Add a task's importance: mean squared gradients of eight batches; and drop the anchor here."""
        for batch in range(8):
            gradients = torch.autograd.grad(loss_of(batch), self._weights)
            for much, gradient in zip(self._importance, gradients, strict=True):
                much += gradient.square() / 8
        self._anchors = [weight.detach().clone() for weight in self._weights]


class _Run:
    def __init__(self, config: VariantConfig, images: Images) -> None:
        self._config, self._images = config, images
        self._random = torch.Generator().manual_seed(config.seed)
        self._shift = 0.0 if config.centred else images.mean  # rows come centred
        sizes = (images.features, *config.hidden, 10)
        self.net = _Network(config, sizes, self._random)
        self._optimizer = torch.optim.Adam(self.net.parameters, lr=config.learning_rate)
        self._memory = _Memory(self._random)
        self._anchor = _Anchor(self.net.shared, config.importance)
        self._orders = [torch.randperm(images.features, generator=self._random) for _ in range(config.tasks)]

    def _rows(self, task: int, count: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(self._images.train_x), (count,), generator=self._random)
        x = (self._images.train_x[rows] + self._shift)[:, self._orders[task]]
        return x, self._images.train_y[rows]

    def learn(self, task: int) -> None:
        seen: list[tuple[Tensor, Tensor]] = []
        for step in range(self._config.steps):
            self._set_rate(task, step)
            x, y = self._rows(task, 128)
            seen.append((x, y))
            loss = self._loss(x, y, task) + self._anchor.penalty()
            if self._config.kept_rows and len(self._memory):
                loss = loss + self._kept_loss()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
            self._optimizer.step()
        self._end(task, seen)

    def _set_rate(self, task: int, step: int) -> None:
        factor = {
            "constant": 1.0,
            "falls-within-a-task": 1.0 - step / self._config.steps,
            "falls-over-tasks": (task + 1) ** -0.5,
        }[self._config.rate]
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * factor

    def _loss(self, x: Tensor, y: Tensor, task: int) -> Tensor:
        return self._entropy(self.net(x, torch.full((len(x),), task)), y).mean()

    def _entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the entropy (B,), 0 for rows that are answered confidently."""
        losses = F.cross_entropy(logits, y, reduction="none")
        return torch.where(losses.detach().neg().exp() <= self._config.confident, losses, 0.0)

    def _kept_loss(self) -> Tensor:
        x, y, before, tasks = self._memory.draw(128)
        logits, share = self.net(x, tasks), self._config.logit_share
        distance = (logits - before).square().mean(1)
        return ((1 - share) * self._entropy(logits, y) + share * distance).mean()

    def _end(self, task: int, seen: Sequence[tuple[Tensor, Tensor]]) -> None:
        if self._config.importance:
            self._anchor.end(lambda batch: self._loss(*seen[-1 - batch], task))
        if self._config.kept_rows:
            x, y = (torch.cat([pair[part] for pair in seen]) for part in (0, 1))
            chosen = torch.randperm(len(x), generator=self._random)[: self._config.kept_rows]
            with torch.no_grad():
                logits = self.net(x[chosen], torch.full((len(chosen),), task))
            self._memory.keep(x[chosen], y[chosen], logits)

    def accuracy(self, task: int) -> float:
        """Return percent of the test set."""
        x = (self._images.test_x + self._shift)[:, self._orders[task]]
        with torch.no_grad():
            answers = self.net(x, torch.full((len(x),), task)).argmax(1)
        return 100.0 * float((answers == self._images.test_y).double().mean())


def run(config: VariantConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Learn task after task and write `results/<name>.json`.

    Returns:
        Configuration, machine, how many weights all tasks share and how many numbers each has of its own, and
        the mean accuracy (percent of the whole test set) over all tasks after the last one.
    """
    attempt = _Run(config, load_images())
    for task in tqdm(range(config.tasks), desc=config.name, unit="task", disable=not progress):
        attempt.learn(task)
    each = [attempt.accuracy(task) for task in range(config.tasks)]
    shared = sum(weight.numel() for weight in attempt.net.shared)
    result = {
        "config": config.model_dump(),
        "machine": machine(),
        "weights": shared,
        "own": attempt.net.own_numbers,
        "each": each,
        "mean": sum(each) / len(each),
    }
    write_json(results / f"{config.name}.json", result)
    return result
