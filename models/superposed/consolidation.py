"""Consolidation: learning kept rows of all tasks again, with nothing new beside them."""

from __future__ import annotations

from superposed.errors import ConfigError
from superposed.learning import descend, measure_losses, whole
from superposed.store import WeightStore

__all__ = ["CONSOLIDATION_ROWS", "consolidate"]

# Rows of one step, drawn from all tasks.
CONSOLIDATION_ROWS = 256


def consolidate(store: WeightStore, steps: int) -> int:
    """Takes rehearsal steps over all tasks at once, at a learning rate that falls to nothing.

    One change of the store, whole or not at all: the rows drawn follow from its sequence number.

    Args:
        store: What learns; changed in place.
        steps: How many.

    Returns:
        How many rows were learned again; 0 where none are kept.

    Raises:
        ConfigError: Fewer than one step.
        UpdateError: A step was refused; weights and optimizer are as they were, and so is the sequence.
    """
    if steps < 1:
        raise ConfigError("a consolidation has at least one step", expected="1 or more", received=steps)
    groups = store.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    rows = 0
    try:
        with whole(store):
            for step in range(steps):
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = rate * (1.0 - step / steps)
                rows += _step(store, step)
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    store.sequence += 1
    return rows


def _step(store: WeightStore, step: int) -> int:
    drawn = store.draw(CONSOLIDATION_ROWS, step=step)
    if drawn is None:
        return 0
    batch, targets = drawn
    descend(store, measure_losses(store, batch, targets).mean())
    return len(batch)
