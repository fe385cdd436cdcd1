"""Consolidation: learning kept rows of all tasks again, with nothing new beside them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from superposed.batch import Batch
from superposed.errors import ConfigError
from superposed.learning import descend, measure_losses, row_losses, whole
from superposed.pools import Share
from superposed.store import WeightStore
from superposed.targets import Targets

__all__ = ["CONSOLIDATION_ROWS", "Judged", "consolidate", "judge"]

# Rows of one step, drawn from all tasks.
CONSOLIDATION_ROWS = 256
# A loss that falls by less is no gain: it may fall a little for ever.
_GAIN = 0.01


def consolidate(store: WeightStore, steps: int, *, share: Share = Share.ALL) -> int:
    """Takes rehearsal steps over all tasks at once, at a learning rate that falls to nothing.

    One change of the store, whole or not at all: the rows drawn follow from its sequence number.

    Args:
        store: What learns; changed in place.
        steps: How many.
        share: Which of each task's rows are learned; without those held out, these can tell what it did.

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
                rows += _step(store, step, share)
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    store.sequence += 1
    return rows


def _step(store: WeightStore, step: int, share: Share) -> int:
    drawn = store.draw(CONSOLIDATION_ROWS, step=step, share=share)
    if drawn is None:
        return 0
    batch, targets = drawn
    descend(store, measure_losses(store, batch, targets).mean())
    return len(batch)


@dataclass(frozen=True)
class Judged:
    """How all tasks do on some of their kept rows.

    Args:
        accuracy: Share of its rows that each cross-entropy task answers right, by key.
        loss: Mean over all tasks of each one's mean loss.
    """

    accuracy: dict[str, float]
    loss: float

    def is_no_worse_than(self, before: Judged) -> bool:
        """Whether the mean accuracy has not fallen; of mse tasks alone, whether the loss has not risen."""
        if not self.accuracy:
            return self.loss <= before.loss
        return fmean(self.accuracy.values()) >= fmean(before.accuracy.values())

    def is_better_than(self, before: Judged) -> bool:
        """Whether the mean accuracy has risen; of mse tasks alone, whether the loss fell by a hundredth."""
        if not self.accuracy:
            return self.loss < before.loss * (1.0 - _GAIN)
        return fmean(self.accuracy.values()) > fmean(before.accuracy.values())


def judge(store: WeightStore, batch: Batch, targets: Targets) -> Judged:
    """Measures each task on its rows of a drawn batch; nothing is learned."""
    outcome = row_losses(store.logits(batch), batch.outputs(), targets)
    places = batch.places()
    keys = [part.task.schema.key for part in batch.parts]
    losses: dict[str, list[float]] = {}
    right: dict[str, list[bool]] = {}
    for place, loss, correct, classified in zip(
        places.tolist(),
        outcome.losses.double().tolist(),
        outcome.correct.tolist(),
        outcome.classified.tolist(),
        strict=True,
    ):
        losses.setdefault(keys[place], []).append(loss)
        if classified:
            right.setdefault(keys[place], []).append(correct)
    return Judged(
        {key: fmean(answers) for key, answers in right.items()},
        fmean(fmean(own) for own in losses.values()),
    )
