"""A task that has a store of its own, in this process: what estimators of other libraries are made of."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray

from superposed.config import StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.online import apply
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Target, read_targets, weighted


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch use one thread: products this small get no faster by more, and beside other work far slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class OwnTask:
    """The one task of a store of its own, which has a configuration, and a secret drawn from a seed."""

    def __init__(self, config: StoreConfig, schema: TaskSchema, seed: int) -> None:
        self.store = WeightStore(config, secret=seeded_secret(seed))
        self._key = schema.key
        self.store.register(schema)

    @property
    def schema(self) -> TaskSchema:
        """The task's schema."""
        return self.store.tasks.get(self._key).schema

    def teach(self, rows: Any, targets: Sequence[Target], weights: Sequence[float] | None = None) -> None:
        """Learn B rows, (B, features) or records, their targets, and how much each counts; raises as `learn`."""
        batch = self.store.batch(self._key, rows, learning=True)
        read = read_targets(batch, targets, self.store.config.network.outputs)
        read = read if weights is None else weighted(read, weights)
        with _one_thread():
            apply(self.store, batch, read, steps=self.store.config.optimizer.steps)

    def answer(self, rows: Any) -> NDArray[Any]:
        """Return probabilities (B, classes) of an answer to B rows, or values (B, outputs), in float64."""
        task = self.store.tasks.get(self._key)
        batch = self.store.batch(self._key, rows)
        with torch.inference_mode(), _one_thread():
            answers = self.store.answers(batch)[:, : task.schema.outputs].double()
            if task.schema.loss == "cross_entropy":
                answers = (answers / task.calibration.temperature).softmax(1)
        return answers.numpy()

    def add_label(self, label: Any) -> None:
        """Add a label to those that the task has; raises as `WeightStore.altered`."""
        self.store.alter(self._key, self.store.altered(self._key, add_labels=[label]))

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store.to_bytes(), "key": self._key}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.store, self._key = WeightStore.from_bytes(state["store"]), state["key"]
