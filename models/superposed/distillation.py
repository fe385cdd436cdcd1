"""Learning a trained network in: what it answers to sample rows, as ordinary rows and targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from superposed.errors import ConfigError, NonFiniteInput, ShapeError
from superposed.networks.mlp import ACTIVATIONS
from superposed.retrieval import RetrievedModel
from superposed.task_schema import TaskSchema

__all__ = ["Lessons", "lessons"]

# The teacher's answers to this share of the rows are not learned: agreement is measured there.
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Lessons:
    """Rows and a teacher's answers to them: class indexes, or values of an mse task.

    Args:
        inputs: (B, inputs) rows to learn.
        targets: (B,) int64 classes, or (B, outputs).
        held_inputs: Rows that are not learned.
        held_targets: The teacher's answers to those.
    """

    inputs: Tensor
    targets: Tensor
    held_inputs: Tensor
    held_targets: Tensor

    def batches(self, passes: int, size: int = 128) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows `passes` times, in another order each time, in batches of at most `size`."""
        order = torch.Generator().manual_seed(0)
        for _ in range(passes):
            shuffled = torch.randperm(len(self.inputs), generator=order)
            for start in range(0, len(shuffled), size):
                rows = shuffled[start : start + size]
                yield self.inputs[rows], self.targets[rows]

    def agreement(self, answers: Tensor) -> float:
        """How far answers agree with the teacher's on the rows held out.

        Args:
            answers: (B, outputs), what the task answers to `held_inputs`.

        Returns:
            The share of rows with the same class; of an mse task the share of the teacher's variance that is
            explained, at most 1.
        """
        if self.held_targets.ndim == 1:
            return float((answers.argmax(1) == self.held_targets).double().mean())
        spread = (self.held_targets - self.held_targets.mean(0)).double().square().sum()
        return 1.0 - float((answers - self.held_targets).double().square().sum() / spread.clamp(min=1e-30))


def lessons(model: RetrievedModel, schema: TaskSchema) -> Lessons:
    """Has a trained network answer its sample rows.

    Args:
        model: As `GET /v1/model` gives it, and one more tensor `rows` (B, inputs) of unlabelled rows.
        schema: The task that learns it.

    Raises:
        ConfigError: A tensor or a fact about the network is missing, or not known here.
        ShapeError: Layers that do not fit each other or the task, or fewer than two rows.
        NonFiniteInput: Weights or rows, or what comes of them, are not finite.
    """
    rows = _checked(model, schema)
    with torch.inference_mode():
        answers = model(rows)
    if not bool(torch.isfinite(answers).all()):
        raise NonFiniteInput("the network's answers to its rows are not finite")
    targets = answers.argmax(1) if schema.loss == "cross_entropy" else answers
    held = max(1, int(_HELD_OUT * len(rows)))
    return Lessons(rows[held:], targets[held:].clone(), rows[:held], targets[:held].clone())


def _checked(model: RetrievedModel, schema: TaskSchema) -> Tensor:
    """The sample rows of a network that fits the task."""
    layers = sum(name.endswith(".weight") for name in model.tensors)
    needed = {"rows", "input.offset", "input.scale"}
    needed |= {f"layers.{place}.{part}" for place in range(layers) for part in ("weight", "bias")}
    if not layers or set(model.tensors) != needed:
        raise ConfigError(
            "not the tensors of a network and its rows",
            expected=sorted(needed | {"layers.0.weight", "layers.0.bias"})[:20],
            received=sorted(model.tensors)[:20],
        )
    _check_facts(model)
    widths = [schema.inputs]
    for place in range(layers):
        weight, bias = (model.tensors[f"layers.{place}.{part}"] for part in ("weight", "bias"))
        if weight.ndim != 2 or weight.shape[1] != widths[-1] or bias.shape != weight.shape[:1]:
            raise ShapeError(
                f"layer {place} does not fit what stands before it",
                expected=f"a weight (outputs, {widths[-1]}) and a bias (outputs,)",
                received=f"{tuple(weight.shape)} and {tuple(bias.shape)}",
            )
        widths.append(len(weight))
    rows = model.tensors["rows"]
    sizes = {
        "outputs": (widths[-1], schema.outputs),
        "offsets": (tuple(model.tensors["input.offset"].shape), (schema.inputs,)),
        "scales": (tuple(model.tensors["input.scale"].shape), (schema.inputs,)),
        "row widths": (rows.shape[-1] if rows.ndim == 2 else -1, schema.inputs),
    }
    for name, (received, expected) in sizes.items():
        if received != expected:
            raise ShapeError(
                f"the network has other {name} than the task", expected=expected, received=received
            )
    if len(rows) < 2:
        raise ShapeError(
            "too few rows: some are learned, others show how well", expected=2, received=len(rows)
        )
    return rows.float()


def _check_facts(model: RetrievedModel) -> None:
    activation = model.metadata.get("activation")
    normalisation = model.metadata.get("normalisation")
    kind = normalisation.get("kind") if isinstance(normalisation, dict) else None
    if activation not in ACTIVATIONS or kind not in {"layer", "none"}:
        raise ConfigError(
            "not a network of this library",
            expected=f"activation one of {sorted(ACTIVATIONS)}, normalisation layer or none",
            received=f"{activation}, {kind}",
        )
    for name, tensor in model.tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise NonFiniteInput(f"{name} holds a number that is not finite", expected="finite floats")
