"""Learners that rehearse: a store, and a standard network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.learners import Learner, Standard
from superposed.analysis.retrieval import retrieve_model
from superposed.config import FamilyName, MLPConfig, OptimizerConfig, RehearsalConfig, StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.consolidation import consolidate
from superposed.learning.online import apply
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["Rehearsed", "StandardRehearsed"]


class Rehearsed(Learner):
    """A weight store as the service runs it, taught by its own updates.

    Args:
        network: Sizes, activation, normalisation.
        optimizer: The store's.
        family: A family's name.
        rehearsal: Which rows are kept.
        seed: Of the secret.
    """

    def __init__(
        self, network: MLPConfig, optimizer: OptimizerConfig, family: FamilyName, rehearsal: RehearsalConfig, seed: int
    ) -> None:
        config = StoreConfig(network=network, family=family, optimizer=optimizer, rehearsal=rehearsal)
        self._store = WeightStore(config, secret=seeded_secret(seed))

    def begin(self, task: int) -> None:
        """Register the task."""
        network = self._store.config.network
        self._store.register(TaskSchema(key=f"task-{task}", inputs=network.inputs, outputs=network.outputs))

    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """One update."""
        part = self._store.resolve(f"task-{task}")
        apply(self._store, Batch((part,), None, x), Targets(y, None))

    def consolidate(self, steps: int) -> None:
        """Rehearse all tasks."""
        consolidate(self._store, steps)

    def logits(self, task: int, x: Tensor) -> Tensor:
        """Answer under the task's context, folded into the weights: cheaper than binding many rows."""
        return retrieve_model(self._store, f"task-{task}")(x)

    def state(self) -> dict[str, Tensor]:
        """Return the whole store."""
        return {"store": torch.frombuffer(bytearray(self._store.to_bytes()), dtype=torch.uint8)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the whole store."""
        self._store = WeightStore.from_bytes(state["store"].numpy().tobytes())

    @property
    def weights(self) -> int:
        """All weights of the network."""
        return sum(parameter.numel() for parameter in self._store.network.parameters())

    @property
    def context_bytes(self) -> int:
        """Bytes of materialised contexts."""
        return self._store.contexts.cached_bytes

    @property
    def kept_bytes(self) -> int:
        """Bytes of the kept rows, in memory and on the disk."""
        return sum(rows.element_size() * rows.numel() for rows in self._store.replay_buffer.state().values())


class StandardRehearsed(Standard):
    """The standard network, with the same number of kept rows and the same mixture in every step."""

    def __init__(self, network: MLPConfig, optimizer: OptimizerConfig, rehearsal: RehearsalConfig, seed: int) -> None:
        super().__init__(network, optimizer, seed)
        self._rehearsal = rehearsal
        self._random = np.random.default_rng(seed)
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._seen: list[tuple[Tensor, Tensor]] = []

    def begin(self, task: int) -> None:
        """Nothing of the task was seen yet."""
        self._seen = []

    def step(self, task: int, x: Tensor, y: Tensor) -> None:
        """One step on the batch, and on as many rows of earlier tasks."""
        self._seen.append((x, y))
        loss = self.loss(task, x, y)
        if self._kept:
            tasks = self._random.integers(0, len(self._kept), round(self._rehearsal.ratio * len(x)))
            rows = [int(self._random.integers(0, len(self._kept[one][0]))) for one in tasks]
            old = [
                torch.stack([self._kept[one][part][row] for one, row in zip(tasks, rows, strict=True)])
                for part in (0, 1)
            ]
            loss = loss + F.cross_entropy(self._network(old[0], self.bindings(0)), old[1])
        self._descend(loss)

    def end(self, task: int, x: Tensor, y: Tensor) -> None:
        """Keep some of the rows that were seen."""
        seen_x, seen_y = (torch.cat([pair[part] for pair in self._seen]) for part in (0, 1))
        chosen = self._random.permutation(len(seen_x))[: self._rehearsal.rows_per_task]
        self._kept.append((seen_x[chosen], seen_y[chosen]))
        self._seen = []

    @property
    def kept_bytes(self) -> int:
        """Bytes of the kept rows at 8 bits a number, as the store keeps them."""
        return sum(x.numel() + 20 * len(x) for x, _ in self._kept)
