"""Tables of accuracies by job and learner, with paired differences from the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np

from superposed import WeightStore

T = TypeVar("T")

STORE = "superposed store"
TUNING, REPORTED = (0, 1, 2), (3, 4, 5)


class Cost(TypedDict):
    """Bytes of weights, of contexts and of kept rows; seconds of learning all tasks."""

    weights: int
    contexts: int
    kept: int
    seconds: float


_COSTS: tuple[Literal["weights", "contexts", "kept", "seconds"], ...] = ("weights", "contexts", "kept", "seconds")


class Found(TypedDict):
    """Of one draw, by learner: accuracy of each task in percent, and what it took."""

    accuracy: dict[str, list[float]]
    cost: dict[str, Cost]


def timed(learn: Callable[[], T]) -> tuple[T, float]:
    """Return what a function returns, and its seconds."""
    began = time.perf_counter()
    return learn(), time.perf_counter() - began


def cost_of_store(store: WeightStore, seconds: float) -> Cost:
    """Return a taught store's cost."""
    return Cost(
        weights=store.weight_bytes,
        contexts=store.contexts.cached_bytes,
        kept=store.replay_buffer.bytes,
        seconds=seconds,
    )


def cost_of_weights(count: int, seconds: float) -> Cost:
    """Return the cost of a learner that has weights of 32 bits, and nothing else."""
    return Cost(weights=4 * count, contexts=0, kept=0, seconds=seconds)


def summary(draws: Sequence[Found]) -> dict[str, Any]:
    """Return each learner's mean accuracy over draws, the store's less it with two standard errors, and costs."""
    means = {name: [float(np.mean(one["accuracy"][name])) for one in draws] for name in draws[0]["accuracy"]}
    found: dict[str, Any] = {}
    for name, own in means.items():
        differences = np.asarray(means[STORE]) - np.asarray(own)
        error = float(differences.std(ddof=1) / np.sqrt(len(draws))) if len(draws) > 1 else float("nan")
        found[name] = {
            "accuracy": float(np.mean(own)),
            "by draw": own,
            "store less it": float(differences.mean()),
            "two standard errors": 2 * error,
        }
        if name in draws[0]["cost"]:
            costs = [one["cost"][name] for one in draws]
            found[name]["cost"] = {what: float(np.mean([cost[what] for cost in costs])) for what in _COSTS}
    return found
