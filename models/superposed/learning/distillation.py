"""Learning a trained network in: what it answers to sample rows, as ordinary rows and targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from superposed.analysis.retrieval import RetrievedModel
from superposed.errors import CapacityExceeded, ConfigError, NonFiniteInput, ShapeError, redacted
from superposed.nn.mlp import ACTIVATIONS
from superposed.tasks.schema import TaskSchema

__all__ = ["DistillationSet", "distillation_set", "held_out"]

# The teacher's answers to this share of the rows are not learned: agreement is measured there.
_HELD_OUT, _LEAST_HELD = 0.2, 2
# Rows of one batch of a teacher; and the bounds of its widest layer and of its multiplications.
_ROWS_AT_ONCE, _MOST_NUMBERS, _MOST_PRODUCTS = 1024, 2**28, 2**38
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class DistillationSet:
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

    def batches(self, epochs: int, size: int = 128) -> Iterator[tuple[Tensor, Tensor]]:
        """Return all rows `epochs` times, in another order each time, in batches of at most `size`."""
        order = torch.Generator().manual_seed(0)
        for _ in range(epochs):
            shuffled = torch.randperm(len(self.inputs), generator=order)
            for start in range(0, len(shuffled), size):
                rows = shuffled[start : start + size]
                yield self.inputs[rows], self.targets[rows]

    def agreement(self, answers: Tensor) -> float:
        """Return the agreement of logits with the teacher's on the rows held out.

        Args:
            answers: (B, outputs), what the task answers to `held_inputs`.

        Returns:
            The share of rows with the same class; of an mse task the share of the teacher's variance that is
            explained, at most 1; where the teacher's answers do not vary, 1 if they are met and else 0.
        """
        if self.held_targets.ndim == 1:
            return float((answers.argmax(1) == self.held_targets).double().mean())
        spread = (self.held_targets - self.held_targets.mean(0)).double().square().sum()
        missed = (answers - self.held_targets).double().square().sum()
        return 1.0 - float(missed / spread) if spread > 0 else float(missed == 0)


def distillation_set(model: RetrievedModel, schema: TaskSchema) -> DistillationSet:
    """Have a trained network answer its sample rows.

    Args:
        model: As `GET /v1/model` gives it, and one more tensor `rows` (B, inputs) of unlabelled rows.
        schema: The task that learns it.

    Raises:
        ConfigError: A tensor or a fact about the network is missing, or not known here.
        ShapeError: Layers that do not fit each other or the task, or fewer than three rows.
        NonFiniteInput: Weights or rows, or what comes of them, are not finite.
        CapacityExceeded: Too many rows for so wide a network.
    """
    rows = _checked(model, schema)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows = rows[order]  # sorted rows would be held out of one kind only
    with torch.inference_mode():
        starts = range(0, len(rows), _ROWS_AT_ONCE)
        answers = torch.cat([model(rows[start : start + _ROWS_AT_ONCE]) for start in starts])
    if not bool(torch.isfinite(answers).all()):
        raise NonFiniteInput("the network's answers to its rows are not finite")
    targets = answers.argmax(1) if schema.loss == "cross_entropy" else answers
    held = held_out(len(rows))
    return DistillationSet(rows[held:], targets[held:].clone(), rows[:held], targets[:held].clone())


def held_out(rows: int) -> int:
    """Return the number of sample rows, out of `rows`, that are held out from learning."""
    return max(_LEAST_HELD, int(_HELD_OUT * rows))


def _checked(model: RetrievedModel, schema: TaskSchema) -> Tensor:
    """Return the sample rows of a network that fits the task, float32 or float64."""
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
    if len(rows) <= _LEAST_HELD:
        raise ShapeError(
            "too few rows: some are learned, others show how well",
            expected=f"{_LEAST_HELD + 1} or more",
            received=len(rows),
        )
    _check_work(len(rows), widths)
    return rows if rows.dtype == torch.float64 else rows.float()


def _check_work(rows: int, widths: Sequence[int]) -> None:
    """Refuse what would take too much memory at once, or too long: a deep network of narrow layers."""
    products = rows * sum(before * after for before, after in pairwise(widths))
    if rows * max(widths) > _MOST_NUMBERS or products > _MOST_PRODUCTS:
        raise CapacityExceeded(
            "too many rows for so large a network",
            expected=f"rows times the widest layer {_MOST_NUMBERS} at most, times weights {_MOST_PRODUCTS}",
            received=f"{rows} rows, {max(widths)} wide, {products} multiplications",
        )


def _check_facts(model: RetrievedModel) -> None:
    activation = model.metadata.get("activation")
    normalisation = model.metadata.get("normalisation")
    facts = normalisation if isinstance(normalisation, dict) else {}
    kind = facts.get("kind")
    if activation not in list(ACTIVATIONS) or kind not in ["layer", "none"]:
        raise ConfigError(
            "not a network of this library",
            expected=f"activation one of {sorted(ACTIVATIONS)}, normalisation layer or none",
            received=f"{redacted(activation)}, {redacted(kind)}",
        )
    if kind == "layer" and not _is_epsilon(facts.get("epsilon")):
        raise ConfigError(
            "the network's normalisation has no epsilon",
            expected="a finite number above 0",
            received=redacted(facts.get("epsilon")),
        )
    _check_numbers(model)


def _is_epsilon(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _check_numbers(model: RetrievedModel) -> None:
    for name, tensor in model.tensors.items():
        if tensor.dtype not in _FLOATS or not bool(torch.isfinite(tensor).all()):
            raise NonFiniteInput(
                f"{name} holds something else than finite numbers",
                expected="finite float16, bfloat16, float32 or float64",
                received=str(tensor.dtype),
            )
    layers = {str(tensor.dtype) for name, tensor in model.tensors.items() if name.startswith("layers.")}
    if len(layers) > 1:
        raise ConfigError(
            "the network's layers have different dtypes", expected="one dtype", received=sorted(layers)
        )
