"""Interference between named tasks: how much their contexts overlap, and what that does to responses.

`superposed.analysis.crosstalk` measures a task against contexts of no task; this module measures it against
chosen tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superposed.contexts import Binding
from superposed.nn.layers import SuperposedLinear
from superposed.store.store import WeightStore

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Interference:
    """Relations between K tasks.

    Args:
        tasks: Their keys.
        overlap: (K, K), the mean over layers of `tr(C(a)ᵀ C(b)) / D`: 1 for the same context, near 0 for
            two that were drawn independently.
        crosstalk: For each task the K energies of the weights' response to its rows under each of the
            contexts, relative to that under its own (so 1 there), mean over layers; None for a task
            without rows, or where a figure is not finite.
    """

    tasks: tuple[str, ...]
    overlap: Matrix
    crosstalk: tuple[tuple[float, ...] | None, ...]


def measure_interference(store: WeightStore, keys: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> Interference:
    """Measure overlap and crosstalk of K different tasks; nothing is learned. The owner of the store may call it.

    `rows` are unlabelled ones of the tasks, (rows, inputs) each, where there are any.

    Raises:
        UnknownTask: A key is not registered.
        InputError: Rows that are not the task's.
    """
    # Copied one by one: the table may give a slot to the next context.
    bound = [store.contexts.gather([store.resolve(key).context]) for key in keys]
    stacks = {name: torch.stack([bindings[name].contexts for bindings in bound]) for name in bound[0]}  # (K, ...)
    with torch.inference_mode():
        overlap = torch.stack([_overlap(stack) for stack in stacks.values()]).mean(0)
        crosstalk = tuple(_crosstalk(store, key, own, stacks, rows.get(key, ())) for own, key in enumerate(keys))
    return Interference(tuple(keys), tuple(map(tuple, overlap.tolist())), crosstalk)


def _overlap(stack: Tensor) -> Tensor:
    """Return `tr(C(a)ᵀ C(b)) / D` of every two of K contexts, (K, K) float64.

    However a family lays its contexts out, that is the cosine between their rows of numbers: all C are
    orthogonal, and so their rows are equally long.
    """
    rows = stack.flatten(1).double()  # (K, numbers)
    rows = rows / rows.norm(dim=1, keepdim=True)
    products: Tensor = rows @ rows.T
    return products.cpu()


def _crosstalk(
    store: WeightStore, key: str, own: int, stacks: Mapping[str, Tensor], rows: Sequence[Any]
) -> tuple[float, ...] | None:
    if not len(rows):
        return None
    batch = store.batch(key, rows)
    count = len(next(iter(stacks.values())))
    ratios: list[Tensor] = []

    def observe(name: str, layer: SuperposedLinear, signal: Tensor) -> None:
        index = torch.arange(count, device=signal.device).repeat_interleave(len(signal))  # (K B,)
        response = layer(signal.repeat(count, 1), Binding(stacks[name], index))  # (K B, D_out)
        energies = response.double().square().view(count, -1).mean(1)  # (K,)
        ratios.append(energies / energies[own])

    bindings = {name: Binding(stack[own]) for name, stack in stacks.items()}
    store.network(batch.inputs.to(store.device), bindings, observe)
    mean: list[float] = torch.stack(ratios).mean(0).tolist()
    return tuple(mean) if all(map(math.isfinite, mean)) else None
