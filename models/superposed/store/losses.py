"""Losses of a batch, row by row."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from superposed.tasks.batch import fill_padding
from superposed.tasks.targets import Targets


@dataclass(frozen=True)
class Measured:
    """Mean of the losses of a batch's rows, and the share of cross-entropy rows answered right, None without any."""

    rows: int
    loss: float
    accuracy: float | None


class _Forward(NamedTuple):
    losses: Tensor  # (B,) in the network's units, each times its row's weight
    reported: Tensor  # (B,) in the user's units, detached
    correct: Tensor  # (B,) bool, False in mse rows
    classified: Tensor  # (B,) bool, True in cross-entropy rows
    logits: Tensor  # (B, store outputs)

    def part(self, rows: slice) -> "_Forward":
        return _Forward(*(column[rows] for column in self))

    def measured(self) -> Measured:
        rated = int(self.classified.sum())
        accuracy = int(self.correct.sum()) / rated if rated else None
        return Measured(len(self.losses), float(self.reported.double().mean()), accuracy)


def row_losses(logits: Tensor, outputs: Tensor, targets: Targets) -> _Forward:
    """Return each row's own loss: cross-entropy or mean squared error over its own task's outputs.

    Logits are (B, store outputs), `outputs` the number (B,) that each row's task has. The mean squared error
    of a task whose targets are scaled is reported in the user's units.
    """
    classes = targets.classes.to(logits.device)
    classified = classes >= 0
    masked = fill_padding(logits, outputs, float("-inf"))
    of_classes = classes if targets.values is None else classes.clamp(min=0)
    losses = F.cross_entropy(masked, of_classes, reduction="none")  # (B,)
    if targets.values is not None:
        difference = fill_padding(logits - targets.values.to(logits.device), outputs, 0.0)
        losses = torch.where(classified, losses, difference.square().sum(1) / outputs)
    reported = losses.detach()
    if targets.units is not None and targets.values is not None:
        # In float64: a square of a large or a small number of the user's may not fit float32.
        in_units = (difference.detach().double() * targets.units.to(logits.device)).square().sum(1) / outputs
        reported = torch.where(classified, reported.double(), in_units)
    if targets.weights is not None:
        losses = losses * targets.weights.to(logits.device, logits.dtype)
    correct = (masked.detach().argmax(1) == classes) & classified
    return _Forward(losses, reported, correct, classified, logits)
