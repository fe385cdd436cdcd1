"""BatchEnsemble for lifelong learning: shared weights, and two trained vectors a layer for every task."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.learners import Learner
from superposed.config import MLPConfig, OptimizerConfig
from superposed.nn import activate
from superposed.nn.optimizers import Optimizer

__all__ = ["BatchEnsemble"]


class _Layer(nn.Module):
    """`y = s ⊙ (W (r ⊙ x)) + b`, with r, s and b a task's own."""

    def __init__(self, inputs: int, outputs: int, tasks: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6.0 / inputs) ** 0.5
        self.weight = nn.Parameter((torch.rand(outputs, inputs, generator=generator) * 2 - 1) * bound)
        signs = torch.rand(tasks, inputs + outputs, generator=generator).sub(0.5).sign()
        self.scales = nn.ParameterList(nn.Parameter(row.clone()) for row in signs)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(outputs)) for _ in range(tasks))

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        inner, outer = self.scales[task].split([self.weight.shape[1], self.weight.shape[0]])
        answer: Tensor = F.linear(x * inner, self.weight) * outer + self.biases[task]
        return answer


class BatchEnsemble(Learner):
    """Shared weights learned with the first task and frozen then; later tasks learn their vectors.

    Args:
        network: Layers and activation; the units of its hidden layers are made fewer until the budget holds.
        optimizer: Each task has one of its own.
        tasks: K.
        budget: Numbers that shared weights and all tasks' vectors may have together.
        seed: Of all that is drawn.

    Source: Wen, Tran, Ba, "BatchEnsemble", ICLR 2020, section 4.1 (lifelong learning).
    """

    def __init__(self, network: MLPConfig, optimizer: OptimizerConfig, tasks: int, budget: int, seed: int) -> None:
        self._config, self._optimizer_config, self._tasks = network, optimizer, tasks
        units = min(network.hidden)
        while units > 1 and self._numbers(units) > budget:
            units -= 1
        generator = torch.Generator().manual_seed(seed)
        sizes = self._sizes(units)
        self._layers = nn.ModuleList(_Layer(inputs, outputs, tasks, generator) for inputs, outputs in pairwise(sizes))

    def _sizes(self, units: int) -> list[int]:
        return [self._config.inputs, *[units] * len(self._config.hidden), self._config.outputs]

    def _numbers(self, units: int) -> int:
        sizes = self._sizes(units)
        pairs = list(pairwise(sizes))
        return sum(a * b for a, b in pairs) + self._tasks * sum(a + 2 * b for a, b in pairs)

    def begin(self, task: int) -> None:
        """Make the task's own vectors; with the first task the shared weights too."""
        own: list[nn.Parameter] = []
        for layer in self._layers:
            assert isinstance(layer, _Layer)  # noqa: S101 - made above
            own += [layer.scales[task], layer.biases[task], *([layer.weight] if task == 0 else [])]
        groups = [{"params": own, "lr": self._optimizer_config.learning_rate}]
        self._optimizer = Optimizer(self._optimizer_config, groups)

    def _answer(self, task: int, x: Tensor) -> Tensor:
        for place, layer in enumerate(self._layers):
            x = layer(x, task)
            if place < len(self._layers) - 1:
                x = activate(x, self._config.activation, self._config.normalisation, 1e-5)
        return x

    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """Take one step of the task's optimizer."""
        self._layers.zero_grad(set_to_none=True)
        F.cross_entropy(self._answer(task, x), y).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self._optimizer.step()

    def logits(self, task: int, x: Tensor) -> Tensor:
        """Return the task's answer."""
        with torch.inference_mode():
            return self._answer(task, x)

    def state(self) -> dict[str, Tensor]:
        """Return weights and vectors."""
        return {name: value.detach() for name, value in self._layers.named_parameters()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore weights and vectors."""
        self._layers.load_state_dict(dict(state))

    @property
    def weights(self) -> int:
        """Shared weights and all tasks' vectors."""
        return sum(parameter.numel() for parameter in self._layers.parameters())
