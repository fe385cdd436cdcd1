"""Learners that the experiments compare: superposition, the standard network, and separate networks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from superposed.config import Activation, MLPConfig, OptimizerConfig, RehearsalConfig
from superposed.contexts import (
    Binding,
    Context,
    ContextSource,
    ContextTable,
    Family,
    Stream,
    TaskId,
    Term,
    family_named,
    seeded_secret,
)
from superposed.nn import MLP, plain_forward
from superposed.nn.optimizers import Optimizer

__all__ = ["NOTHING_KEPT", "Identity", "Learner", "Separate", "Standard", "Superposed", "plain_mlp"]

NOTHING_KEPT = RehearsalConfig(rows_per_task=0)


def plain_mlp(**settings: Any) -> MLPConfig:
    """Return a network of ReLU units without expansion, as the paper's, with some settings of its own."""
    return MLPConfig(**{"hidden": (256,) * 3, "activation": "relu", "expansion": 1} | settings)


class Identity(Family[Tensor]):
    """No contexts at all: what turns a superposed network back into the standard one."""

    name = "standard"

    def context_shape(self, features: int) -> tuple[int, ...]:
        """Return the shape of a placeholder: nothing is stored."""
        del features
        return (1,)

    def generate(self, stream: Stream, features: int) -> Tensor:
        """Return no numbers."""
        return torch.empty(0)

    def compose(self, terms: Sequence[Term[Tensor]], picks: Stream) -> Tensor:
        """Return the number 1."""
        return torch.ones(1)

    def bind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the input itself."""
        return x

    def unbind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the input itself."""
        return x

    def response_energy(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return the response itself: there is no other context."""
        return (x @ weight.T).square()


class Learner(ABC):
    """Learns tasks 0, 1, 2 ... strictly one after another and answers for any of them."""

    @abstractmethod
    def begin(self, task: int) -> None:
        """Begin a new task; earlier ones will not be seen again."""

    @abstractmethod
    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """One step on rows (B, inputs) with classes (B,)."""

    def end(self, task: int, x: Tensor, y: Tensor) -> None:  # noqa: B027 - optional, not forgotten
        """End the task; some of its rows for methods that look back once."""

    @abstractmethod
    def logits(self, task: int, x: Tensor) -> Tensor:
        """Answer rows (B, inputs) as `task`, (B, outputs)."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return everything that a resumed run needs, by name."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""

    @property
    @abstractmethod
    def weights(self) -> int:
        """Number of trained numbers that answer requests."""

    @property
    def context_bytes(self) -> int:
        """Bytes of materialised contexts beside the weights."""
        return 0

    @property
    def kept_bytes(self) -> int:
        """Bytes on the disk of rows of earlier tasks."""
        return 0

    def bytes(self) -> dict[str, int]:
        """Return the bytes that answer requests, weights and contexts apart, and those on the disk."""
        weights = 4 * self.weights
        return {
            "weights": weights,
            "contexts": self.context_bytes,
            "resident": weights + self.context_bytes,
            "disk": weights + self.kept_bytes,
        }


class Superposed(Learner):
    """One network, one optimizer, a context a task.

    Args:
        network: Sizes, activation, normalisation.
        optimizer: The one optimizer across all tasks.
        family: A family's name.
        seed: Of the contexts and the initial weights.
    """

    def __init__(self, network: MLPConfig, optimizer: OptimizerConfig, family: str, seed: int) -> None:
        self._family: Family[Any] = Identity() if family == Identity.name else family_named(family)
        self._network = MLP(network, self._family, generator=torch.Generator().manual_seed(seed))
        groups = [{"params": list(self._network.parameters()), "lr": optimizer.learning_rate}]
        self._optimizer = Optimizer(optimizer, groups)
        features = {name: layer.bound_features for name, layer in self._network.superposed_layers().items()}
        source = ContextSource(self._family, features, seeded_secret(seed))
        self._contexts = ContextTable(source, 2**30, torch.float32, torch.device("cpu"))

    def bindings(self, task: int) -> Mapping[str, Binding]:
        """Return every layer's context of a task."""
        return self._contexts.bind_all(Context(((TaskId(f"task-{task}"), 1.0, None),)))

    def begin(self, task: int) -> None:
        """Nothing: a task is its context."""

    def answers(self, task: int, x: Tensor) -> Tensor:
        """Return logits of a batch, to learn by."""
        logits: Tensor = self._network(x, self.bindings(task))
        return logits

    def loss(self, task: int, x: Tensor, y: Tensor) -> Tensor:
        """Return mean cross-entropy of a batch."""
        return F.cross_entropy(self.answers(task, x), y)

    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """One optimizer step."""
        self._descend(self.loss(task, x, y))

    def _descend(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self._optimizer.step()

    def logits(self, task: int, x: Tensor) -> Tensor:
        """Answer under the task's context, folded into the weights: cheaper than binding many rows."""
        bindings = self.bindings(task)
        with torch.inference_mode():
            folded = {
                name: layer.retrieve(bindings[name].contexts)
                for name, layer in self._network.superposed_layers().items()
            }
            answer: Tensor = plain_forward(x, list(folded.values()), self._network.activate_and_normalise)
            return answer

    def state(self) -> dict[str, Tensor]:
        """Return weights and optimizer state."""
        state = {f"network.{name}": value.detach() for name, value in self._network.named_parameters()}
        for name, parameter in self._network.named_parameters():
            for field, value in self._optimizer.state[parameter].items():
                state[f"optimizer.{name}.{field}"] = value
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Weights and optimizer state."""
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                parameter.copy_(state[f"network.{name}"])
                prefix = f"optimizer.{name}."
                self._optimizer.state[parameter] = {
                    key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)
                }

    @property
    def weights(self) -> int:
        """All weights of the network."""
        return sum(parameter.numel() for parameter in self._network.parameters())

    @property
    def context_bytes(self) -> int:
        """Bytes of the contexts of the tasks so far."""
        return self._contexts.cached_bytes


class Standard(Superposed):
    """The same network without contexts: what forgets."""

    def __init__(self, network: MLPConfig, optimizer: OptimizerConfig, seed: int) -> None:
        super().__init__(network, optimizer, Identity.name, seed)


class Separate(Learner):
    """K small networks, one a task, of the same total number of weights; each with its own optimizer.

    Args:
        shapes: Each task's inputs and outputs.
        budget: Weights that all K networks may have together; each has one hidden layer.
        steps: Each task's steps, for the cosine schedule.
        learning_rate: Adam's, at the start of the schedule.
        seed: Of the initial weights.
        activation: Of their hidden layers.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        budget: int,
        steps: Sequence[int],
        learning_rate: float,
        seed: int,
        activation: Activation = "relu",
    ) -> None:
        self._shapes, self._steps, self._activation = shapes, steps, activation
        self._each = budget / len(shapes)
        self._learning_rate, self._seed = learning_rate, seed
        self._networks: list[MLP] = []

    def _network(self, task: int, generator: torch.Generator | None = None) -> MLP:
        inputs, outputs = self._shapes[task]
        # (inputs + 1) units + (units + 1) outputs = budget / K
        units = max(1, math.floor((self._each - outputs) / (inputs + 1 + outputs)))
        config = plain_mlp(
            inputs=inputs, hidden=(units,), outputs=outputs, activation=self._activation, normalisation="none"
        )
        return MLP(config, Identity(), generator=generator)

    def begin(self, task: int) -> None:
        """Make a fresh network and optimizer."""
        generator = torch.Generator().manual_seed(self._seed * 100_003 + task)
        network = self._network(task, generator)
        self._networks.append(network)
        self._optimizer = torch.optim.Adam(network.parameters(), lr=self._learning_rate)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, self._steps[task])

    def _answer(self, task: int, x: Tensor) -> Tensor:
        network = self._networks[task]
        answer: Tensor = network(x, {name: Binding(torch.ones(1)) for name in network.superposed_layers()})
        return answer

    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """One step of the task's own optimizer."""
        self._optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self._answer(task, x), y).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self._optimizer.step()
        self._schedule.step()

    def logits(self, task: int, x: Tensor) -> Tensor:
        """Return the task's own network's answer."""
        with torch.inference_mode():
            return self._answer(task, x)

    def state(self) -> dict[str, Tensor]:
        """Return every network's weights."""
        return {
            f"{task}.{name}": value.detach()
            for task, network in enumerate(self._networks)
            for name, value in network.named_parameters()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Every network's weights."""
        self._networks = []
        with torch.no_grad():
            while f"{len(self._networks)}.layers.0.weight" in state:
                task = len(self._networks)
                network = self._network(task)
                for name, parameter in network.named_parameters():
                    parameter.copy_(state[f"{task}.{name}"])
                self._networks.append(network)

    @property
    def weights(self) -> int:
        """Of the networks made so far."""
        return sum(parameter.numel() for network in self._networks for parameter in network.parameters())
