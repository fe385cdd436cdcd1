"""Permuting MNIST: input interference, the paper's first experiment (its section 4.1.1, figure 4).

A new random pixel permutation, and a new context, every 1,000 steps; one shared 10-way output. After
every task the accuracy on task 1 and the mean over all tasks seen so far are measured on the whole
test set.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from experiments.anchored import EWC, SynapticIntelligence
from experiments.datasets import Dataset, idx_dataset
from experiments.ensemble import BatchEnsemble
from experiments.learners import Learner, Separate, Standard, Superposed
from experiments.rehearsed import Rehearsed, StandardRehearsed
from experiments.report import machine, write_json
from superposed.config import Activation, Config, FamilyName, MLPConfig, OptimizerConfig, RehearsalConfig
from superposed.store import tensorfile

__all__ = ["Method", "PermutedConfig", "run"]

PAPERS_OPTIMIZER = OptimizerConfig(name="rmsprop", learning_rate=1e-4)

Method = Literal[
    "superposed",
    "standard",
    "ewc",
    "synaptic-intelligence",
    "separate",
    "rehearsed",
    "standard-rehearsed",
    "batch-ensemble",
]


_TASKS, _STEPS, _HIDDEN_LAYERS = 50, 1000, 3
# How large each task's part is depends on how many there will be.
_SIZED_BY_TASKS = frozenset({"separate", "batch-ensemble"})
_PENALISED = frozenset({"ewc", "synaptic-intelligence"})
# What cannot go on where it stopped: its sizes depend on the number of tasks, or its rows are not saved.
_STARTS_ANEW = frozenset({"separate", "standard-rehearsed"})


class PermutedConfig(Config):
    """One run of the experiment; the defaults are the paper's settings.

    Args:
        method: What learns.
        dataset: An IDX data set's name.
        family: Context family (superposed only).
        units: Units of each hidden layer; `separate` gets the same number of weights in all.
        hidden_layers: How many.
        tasks: K permutations; task 0 is the identity.
        steps: Steps a task.
        batch: Rows a step.
        optimizer: The one optimizer across all tasks (not `separate`, which has Adam on a cosine).
        activation: Of hidden layers.
        normalisation: Of hidden layers, before binding.
        bias: Shared by all tasks, or bound with a constant input.
        centred: Whether the training set's mean image is subtracted.
        strength: Of the penalty of `ewc` and `synaptic-intelligence`.
        separate_learning_rate: Adam's at the start of its cosine.
        kept_rows: Of each task, for `rehearsed` and `standard-rehearsed`.
        logit_share: Of a kept row's loss, what is the distance from its logits of when it was kept.
        own_ratio: Earlier rows of the task itself with each new row (`rehearsed` only).
        consolidation: Steps over kept rows of all tasks after the last one (`rehearsed` only).
        evaluate_every: Number of tasks between two measurements of the accuracies.
        budget: Weights that `separate` may have in all; 0 for as many as the network has.
        seed: Of weights, contexts, permutations and the order of the rows.
    """

    method: Method = "superposed"
    dataset: str = "mnist"
    family: FamilyName = "binary"
    units: int = Field(256, ge=1)
    hidden_layers: int = Field(_HIDDEN_LAYERS, ge=1)
    tasks: int = Field(_TASKS, ge=1)
    steps: int = Field(_STEPS, ge=1)
    batch: int = Field(128, ge=1)
    optimizer: OptimizerConfig = PAPERS_OPTIMIZER
    activation: Activation = "relu"
    normalisation: Literal["layer", "none"] = "none"
    bias: Literal["bound", "shared"] = "shared"
    centred: bool = False
    strength: float = Field(1.0, ge=0)
    separate_learning_rate: float = Field(2e-2, gt=0)
    kept_rows: int = Field(0, ge=0)
    logit_share: float = Field(0.0, ge=0, le=1)
    own_ratio: float = Field(0.0, ge=0, le=16)
    consolidation: int = Field(0, ge=0)
    evaluate_every: int = Field(1, ge=1)
    budget: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        kinds = {"superposed": str(self.family), "rehearsed": f"{self.family}-rehearsed"}
        kind = kinds.get(self.method, self.method)
        default = type(self)()
        strengthened = self.method in _PENALISED and self.strength != default.strength
        extras = [
            self.dataset if self.dataset != default.dataset else "",
            f"strength{self.strength:g}" if strengthened else "",
            f"batch{self.batch}" if self.batch != default.batch else "",
            self.activation if self.activation != "relu" else "",
            "layernorm" if self.normalisation == "layer" else "",
            "centred" if self.centred else "",
            "boundbias" if self.bias == "bound" else "",
            f"layers{self.hidden_layers}" if self.hidden_layers != _HIDDEN_LAYERS else "",
            f"rows{self.kept_rows}" if self.kept_rows else "",
            f"logits{self.logit_share:g}" if self.logit_share else "",
            f"own{self.own_ratio:g}" if self.own_ratio else "",
            f"steps{self.steps}" if self.steps != _STEPS else "",
            f"budget{self.budget}" if self.budget else "",
            f"tasks{self.tasks}" if self.method in _SIZED_BY_TASKS and self.tasks != _TASKS else "",
            self._optimizer_name(),
            f"seed{self.seed}" if self.seed else "",
        ]
        return "-".join([kind, str(self.units), *(extra for extra in extras if extra)])

    def _optimizer_name(self) -> str:
        if self.optimizer == PAPERS_OPTIMIZER:
            return ""
        name, own = f"{self.optimizer.name}-{self.optimizer.learning_rate:g}", self.optimizer
        if (own.decay, own.epsilon) != (PAPERS_OPTIMIZER.decay, PAPERS_OPTIMIZER.epsilon):
            name += f"-decay{own.decay:g}-epsilon{own.epsilon:g}"
        return name

    def network(self, data: Dataset) -> MLPConfig:
        """Return the network that all tasks share."""
        return MLPConfig(
            inputs=data.features,
            hidden=(self.units,) * self.hidden_layers,
            outputs=len(data.labels),
            activation=self.activation,
            normalisation=self.normalisation,
            bias=self.bias,
            expansion=1,
        )


def _learner(config: PermutedConfig, data: Dataset) -> Learner:
    network = config.network(data)
    make: dict[Method, Callable[[MLPConfig, PermutedConfig], Learner]] = {
        "superposed": lambda net, own: Superposed(net, own.optimizer, own.family, own.seed),
        "standard": lambda net, own: Standard(net, own.optimizer, own.seed),
        "ewc": lambda net, own: EWC(net, own.optimizer, own.seed, own.strength),
        "synaptic-intelligence": lambda net, own: SynapticIntelligence(net, own.optimizer, own.seed, own.strength),
        "rehearsed": lambda net, own: Rehearsed(net, own.optimizer, own.family, _rehearsal(own), own.seed),
        "standard-rehearsed": lambda net, own: StandardRehearsed(net, own.optimizer, _rehearsal(own), own.seed),
        "batch-ensemble": lambda net, own: BatchEnsemble(net, own.optimizer, own.tasks, _budget(own, net), own.seed),
        "separate": lambda net, own: Separate(
            [(net.inputs, net.outputs)] * own.tasks,
            _budget(own, net),
            [own.steps] * own.tasks,
            own.separate_learning_rate,
            own.seed,
            own.activation,
        ),
    }
    return make[config.method](network, config)


def _rehearsal(config: PermutedConfig) -> RehearsalConfig:
    return RehearsalConfig(
        rows_per_task=config.kept_rows,
        ratio=1.0,
        own_ratio=config.own_ratio,
        least_rows=0,
        max_bytes=2**40,
        logit_share=config.logit_share,
    )


def _budget(config: PermutedConfig, network: MLPConfig) -> int:
    return config.budget or Standard(network, config.optimizer, config.seed).weights


class _Rows:
    """The data as tensors, and each task's view of it."""

    def __init__(self, config: PermutedConfig, data: Dataset) -> None:
        self._config = config
        mean = torch.from_numpy(data.train_x.mean(0)) if config.centred else torch.zeros(data.features)
        self._train_x, self._train_y = torch.from_numpy(data.train_x) - mean, torch.from_numpy(data.train_y)
        self._test_x, self._test_y = torch.from_numpy(data.test_x) - mean, torch.from_numpy(data.test_y)

    def _order(self, task: int) -> Tensor:
        features = self._train_x.shape[1]
        if task == 0:
            return torch.arange(features)
        return torch.randperm(features, generator=self._generator("permutation", task))

    def _generator(self, purpose: str, task: int) -> torch.Generator:
        offset = {"permutation": 1, "batches": 2}[purpose]
        return torch.Generator().manual_seed(4 * (self._config.seed * 1_000_003 + task) + offset)

    def batches(self, task: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the steps' rows: whole passes over the training set, shuffled, cut into batches."""
        order, generator = self._order(task), self._generator("batches", task)
        left = torch.empty(0, dtype=torch.int64)
        for _ in range(self._config.steps):
            while len(left) < self._config.batch:
                left = torch.cat([left, torch.randperm(len(self._train_x), generator=generator)])
            rows, left = left[: self._config.batch], left[self._config.batch :]
            yield self._train_x[rows][:, order], self._train_y[rows]

    def sample(self, task: int, count: int = 2048) -> tuple[Tensor, Tensor]:
        """Return some of a task's training rows."""
        return self._train_x[:count][:, self._order(task)], self._train_y[:count]

    def accuracy(self, learner: Learner, task: int) -> float:
        """Return percent of the whole test set that is answered right as `task`."""
        answers = learner.logits(task, self._test_x[:, self._order(task)]).argmax(1)
        return 100.0 * float((answers == self._test_y).double().mean())


def run(config: PermutedConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run one method, or go on where an earlier run of the same configuration stopped.

    After every task the state and the figures so far are on disk in `results/.partial`; the finished
    result is `results/<name>.json`. Consolidation comes after that: more tasks may be added to a run as if it
    had not been.

    Returns:
        The result: configuration, machine, and by number of tasks learned (percent) `task_1`, `mean`,
        and for the last one `each`.
    """
    data = idx_dataset(config.dataset)
    learner, rows = _learner(config, data), _Rows(config, data)
    partial = results / ".partial" / f"{config.name}.safetensors"
    history = _resume(partial, config, learner)
    with tqdm(
        total=config.tasks * config.steps,
        initial=len(history["task_1"]) * config.steps,
        desc=config.name,
        unit="step",
        disable=not progress,
    ) as bar:
        for task in range(len(history["task_1"]), config.tasks):
            started = time.perf_counter()
            _learn_task(learner, rows, task, bar)
            history["seconds_learning"] += time.perf_counter() - started
            if (task + 1) % config.evaluate_every and task + 1 < config.tasks:
                history["task_1"].append(None)
                history["mean"].append(None)
                continue
            each = _evaluate(learner, rows, task + 1)
            history["task_1"].append(each[0])
            history["mean"].append(sum(each) / len(each))
            history["each"] = each
            bar.set_postfix(task_1=f"{each[0]:.1f}", mean=f"{history['mean'][-1]:.1f}")
            result = {
                "config": config.model_dump(),
                "machine": machine(),
                "weights": learner.weights,
                "bytes": learner.bytes(),
                **history,
            }
            write_json(results / f"{config.name}.json", result)
            partial.parent.mkdir(parents=True, exist_ok=True)
            tensorfile.write(partial, tensorfile.dump(learner.state(), {"config": config.model_dump(), **history}))
    finished: dict[str, Any] = json.loads((results / f"{config.name}.json").read_text())
    if config.consolidation and isinstance(learner, Rehearsed) and "consolidated" not in finished:
        learner.consolidate(config.consolidation)
        again = _evaluate(learner, rows, config.tasks)
        finished["consolidated"] = {"mean": sum(again) / len(again), "each": again}
        write_json(results / f"{config.name}.json", finished)
    return finished


def _evaluate(learner: Learner, rows: _Rows, tasks: int) -> list[float]:
    return [rows.accuracy(learner, task) for task in range(tasks)]


def _resume(partial: Path, config: PermutedConfig, learner: Learner) -> dict[str, Any]:
    if partial.exists():
        tensors, saved = tensorfile.parse(partial.read_bytes())
        # More tasks of the same run may be added later; anything else is another run. What an earlier release
        # did not know had its default.
        made_with = PermutedConfig().model_dump(mode="json") | saved.pop("config")
        same = made_with | {"tasks": 0} == config.model_dump(mode="json") | {"tasks": 0}
        if same and config.method not in _STARTS_ANEW and len(saved["task_1"]) <= config.tasks:
            learner.load_state(tensors)
            return saved
    return {"task_1": [], "mean": [], "each": [], "seconds_learning": 0.0}


def _learn_task(learner: Learner, rows: _Rows, task: int, bar: Any) -> None:
    learner.begin(task)
    for x, y in rows.batches(task):
        learner.step(task, x, y)
        bar.update()
    learner.end(task, *rows.sample(task))
