"""Crosstalk: how much of a response is noise from the other tasks, measured and predicted, of all or of chosen ones.

After online learning no separate W(k) exists, so crosstalk is defined on responses. Per layer, it is the mean response
energy to a task's rows under contexts that were never registered, over the mean response energy under the task's own
context. The law predicts the first of the two from the weights alone: `E |w C x|²` over random C (METHOD: the variance
of the residual). `measure_interference` measures tasks against the contexts of chosen tasks instead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from superposed.contexts import Binding, Context, TaskId
from superposed.nn.layers import SuperposedLinear
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.registry import CrosstalkSample

# Contexts that no key can name (the character is not allowed in one): what no task was taught under.
PROBES = tuple(Context(((TaskId(f"~{number}"), 1.0, None),)) for number in range(2))
_ROWS = 64


def measure(store: WeightStore, batch: Batch) -> CrosstalkSample | None:
    """Measure crosstalk at up to 64 rows of a batch of one context.

    Every layer is measured at the input that it gets under the own context, so that a layer's figure
    is its own and not that of the layers before it. Return the measured and the predicted ratio of each: 0 is no noise,
    1 is as much response to a foreign context as to the own one. None where a ratio is not a finite number (rows too
    large, or no response at all).
    """
    # Copies: the table may give a context's slot to the next one.
    own, *foreign_contexts = [store.contexts.gather([one]) for one in (batch.parts[0].context, *PROBES)]
    measured: dict[str, float] = {}
    predicted: dict[str, float] = {}

    def observe(name: str, layer: SuperposedLinear, signal: Tensor) -> None:
        extended, matrix = layer.extend(signal), layer.matrix()
        energy = _mean_square(layer(signal, own[name]))
        foreign = [_mean_square(layer(signal, binding[name])) for binding in foreign_contexts]
        law = float(layer.family.response_energy(matrix.double(), extended.double()).mean())
        measured[name] = sum(foreign) / len(foreign) / energy if energy else math.nan
        predicted[name] = law / energy if energy else math.nan

    with torch.inference_mode():
        store.network(batch.inputs[:_ROWS].to(store.device), own, observe)
    if not all(map(math.isfinite, (*measured.values(), *predicted.values()))):
        return None
    return CrosstalkSample(store.sequence, store.tasks_taught(), measured, predicted)


def _mean_square(response: Tensor) -> float:
    return float(response.double().square().mean())


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
    overlap: tuple[tuple[float, ...], ...]
    crosstalk: tuple[tuple[float, ...] | None, ...]


def measure_interference(store: WeightStore, keys: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> Interference:
    """Measure overlap and crosstalk of K different tasks; nothing is learned. The owner of the store may call it.

    `rows` are unlabelled ones of the tasks, (rows, inputs) each, where there are any. Raise `UnknownTask` where a key
    is not registered; `InputError` for rows that are not the task's.
    """
    # Copied one by one: the table may give a slot to the next context.
    bound = [store.contexts.gather([store.resolve(key).context]) for key in keys]
    stacks = {name: torch.stack([bindings[name].contexts for bindings in bound]) for name in bound[0]}  # (K, ...)
    with torch.inference_mode():
        # However a family lays its contexts out, `tr(C(a)ᵀ C(b)) / D` is the cosine between their rows of numbers:
        # all C are orthogonal, and so their rows are equally long.
        units = [F.normalize(stack.flatten(1).double()) for stack in stacks.values()]  # (K, numbers)
        overlap = torch.stack([(rows @ rows.T).cpu() for rows in units]).mean(0)
        crosstalk = tuple(_crosstalk(store, key, own, stacks, rows.get(key, ())) for own, key in enumerate(keys))
    return Interference(tuple(keys), tuple(map(tuple, overlap.tolist())), crosstalk)


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
