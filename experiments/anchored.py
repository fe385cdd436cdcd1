"""Standard networks whose weights are anchored where earlier tasks left them: EWC, synaptic intelligence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.learners import Standard
from superposed.config import MLPConfig, OptimizerConfig

__all__ = ["EWC", "SynapticIntelligence"]


class _Anchored(Standard):
    """A standard network with a quadratic penalty that anchors weights where earlier tasks left them.

    The sum over tasks of `I_k (w - w_k)²` is kept as Σ I_k and Σ I_k w_k, which is exact and does not
    grow with the tasks.
    """

    def __init__(self, network: MLPConfig, optimizer: OptimizerConfig, seed: int, strength: float) -> None:
        super().__init__(network, optimizer, seed)
        self._strength = strength
        self._parameters = dict(self._network.named_parameters())
        self._importance = self._zeros()
        self._pull = self._zeros()

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(value) for name, value in self._parameters.items()}

    def _anchor(self, importance: Mapping[str, Tensor]) -> None:
        for name, value in self._parameters.items():
            self._importance[name] += importance[name]
            self._pull[name] += importance[name] * value.detach()

    def penalty_gradient(self, name: str) -> Tensor:
        """Return gradient of `strength / 2 Σ_k I_k (w - w_k)²`."""
        value = self._parameters[name].detach()
        return self._strength * (self._importance[name] * value - self._pull[name])

    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """Take one step on the task's loss and the penalty."""
        self._optimizer.zero_grad()
        self.loss(task, x, y).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self._before_step()
        if task > 0:
            for name, value in self._parameters.items():
                assert value.grad is not None  # noqa: S101 - every weight is used
                value.grad += self.penalty_gradient(name)
        self._optimizer.step()

    def _before_step(self) -> None:
        """See the loss's own gradients before the penalty is added."""

    def state(self) -> dict[str, Tensor]:
        """Return the network's state and the anchors."""
        state = super().state()
        for name in self._parameters:
            state[f"importance.{name}"] = self._importance[name]
            state[f"pull.{name}"] = self._pull[name]
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the network's state, and the anchors."""
        super().load_state(state)
        for name in self._parameters:
            self._importance[name] = state[f"importance.{name}"].clone()
            self._pull[name] = state[f"pull.{name}"].clone()


class EWC(_Anchored):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): importance is the diagonal Fisher information.

    Estimated at the end of a task from 1,024 of its rows, labels drawn from the model's own answers.
    """

    _ROWS = 1024

    def end(self, task: int, x: Tensor, y: Tensor) -> None:
        """Estimate the importance of every weight for this task."""
        del y
        fisher = self._zeros()
        rows = min(self._ROWS, len(x))
        generator = torch.Generator().manual_seed(task)
        for row in torch.split(x[:rows], 1):
            logits: Tensor = self._network(row, self.bindings(task))
            drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
            gradients = torch.autograd.grad(F.cross_entropy(logits, drawn), list(self._parameters.values()))
            for name, gradient in zip(fisher, gradients, strict=True):
                fisher[name] += gradient.square() / rows
        self._anchor(fisher)


class SynapticIntelligence(_Anchored):
    """Zenke et al. 2017: importance is the share of a weight's path in the fall of the loss."""

    _DAMPING = 0.1

    def begin(self, task: int) -> None:
        """Begin a new path."""
        self._path = self._zeros()
        self._start = {name: value.detach().clone() for name, value in self._parameters.items()}

    def _before_step(self) -> None:
        self._gradient = {
            name: value.grad.clone() for name, value in self._parameters.items() if value.grad is not None
        }

    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """Take one step, and note the gain of each weight's move."""
        before = {name: value.detach().clone() for name, value in self._parameters.items()}
        super().step(task, x, y)
        for name, value in self._parameters.items():
            self._path[name] -= self._gradient[name] * (value.detach() - before[name])

    def end(self, task: int, x: Tensor, y: Tensor) -> None:
        """Turn the path into importance."""
        del x, y
        importance = {}
        for name, value in self._parameters.items():
            moved = (value.detach() - self._start[name]).square()
            # Twice, as the penalty here has a half that the paper's has not.
            importance[name] = 2 * self._path[name].clamp(min=0) / (moved + self._DAMPING)
        self._anchor(importance)
