"""Consolidation: learning kept rows of all tasks again, with nothing new beside them."""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

from superposed.errors import ConfigError, UpdateError
from superposed.learning.online import atomic, measure_losses, optimizer_step
from superposed.store.losses import row_losses
from superposed.store.replay_buffer import Split
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.targets import Targets

# Rows of one step, drawn from all tasks.
CONSOLIDATION_ROWS = 256


def consolidate(store: WeightStore, steps: int, *, share: Split = Split.ALL) -> int:
    """Take rehearsal steps over all tasks at once, at a learning rate that falls to nothing.

    One change of the store, whole or not at all: the rows drawn follow from its sequence number. Only kept rows of the
    split `share` are learned: those held out can tell what it did. A step whose rows the arithmetic refuses is left
    out. Return how many rows were learned again, 0 where none are kept; raise `ConfigError` for fewer than one step.
    """
    if steps < 1:
        raise ConfigError("a consolidation has at least one step", expected="1 or more", received=steps)
    groups = store.optimizer.param_groups
    rates = [group["lr"] for group in groups]
    rows = 0
    try:
        with atomic(store):
            for step in range(steps):
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = rate * (1.0 - step / steps)
                rows += _step(store, step, share)
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
    store.sequence += 1
    return rows


def _step(store: WeightStore, step: int, share: Split) -> int:
    drawn = store.draw(CONSOLIDATION_ROWS, step=step, share=share)
    if drawn is None:
        return 0
    with suppress(UpdateError):
        optimizer_step(store, measure_losses(store, *drawn).mean())
        return len(drawn[0])
    return 0


@dataclass(frozen=True)
class Judged:
    """Measurement of all tasks on some of their kept rows.

    `accuracy` is the share of its rows that each cross-entropy task answers right, by key; `loss` the mean over all mse
    tasks of each one's mean loss, None where there are none.
    """

    accuracy: dict[str, float]
    loss: float | None

    def is_no_worse_than(self, before: "Judged") -> bool:
        """Return True if neither the mean accuracy has fallen nor the loss of mse tasks has risen."""
        after, earlier = (fmean(one.accuracy.values() or [0.0]) for one in (self, before))
        return after >= earlier and (self.loss or 0.0) <= (before.loss or 0.0)


def judge(store: WeightStore, batch: Batch, targets: Targets) -> Judged:
    """Measure each task on its rows of a drawn batch; nothing is learned."""
    outcome = row_losses(store.logits(batch), batch.outputs(), targets)
    keys = [part.task.schema.key for part in batch.parts]
    losses, right = defaultdict[str, list[float]](list), defaultdict[str, list[bool]](list)
    columns = (batch.places(), outcome.losses.double(), outcome.correct, outcome.classified)
    for place, loss, correct, classified in zip(*(column.tolist() for column in columns), strict=True):
        if classified:
            right[keys[place]].append(correct)
        else:
            losses[keys[place]].append(loss)
    loss_of_all = fmean(fmean(own) for own in losses.values()) if losses else None
    return Judged({key: fmean(answers) for key, answers in right.items()}, loss_of_all)
