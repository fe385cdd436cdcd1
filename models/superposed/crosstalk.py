"""Crosstalk: how much of a response is noise from the other tasks, measured and predicted.

After online learning no separate W(k) exists, so crosstalk is defined on responses. Per layer, it is
the mean response energy to a task's rows under contexts that were never registered, over the mean
response energy under the task's own context. The law predicts the first of the two from the weights
alone: `E |w C x|²` over random C (METHOD: the variance of the residual).
"""

from __future__ import annotations

import torch
from torch import Tensor

from superposed.batch import Batch
from superposed.contexts import Context, TaskId
from superposed.layers import SuperposedLinear
from superposed.store import WeightStore
from superposed.tasks import CrosstalkSample

__all__ = ["PROBES", "measure"]

# Contexts that no key can name (the character is not allowed in one): what no task was taught under.
PROBES = tuple(Context(((TaskId(f"~{number}"), 1.0, None),)) for number in range(2))
_ROWS = 64


def measure(store: WeightStore, batch: Batch) -> CrosstalkSample:
    """Measures crosstalk at up to 64 rows of a batch of one context.

    Every layer is measured at the input that it gets under the own context, so that a layer's figure
    is its own and not that of the layers before it.

    Returns:
        The measured and the predicted ratio of each layer: 0 is no noise, 1 is as much response to a
        stranger as to the task itself.
    """
    own = store.bindings(batch)
    strangers = [store.contexts.bind_all(probe) for probe in PROBES]
    measured: dict[str, float] = {}
    predicted: dict[str, float] = {}

    def observe(name: str, layer: SuperposedLinear, signal: Tensor) -> None:
        extended, matrix = layer.extend(signal), layer.matrix()
        energy = float(layer(signal, own[name]).double().square().mean())
        foreign = [float(layer(signal, binding[name]).double().square().mean()) for binding in strangers]
        measured[name] = sum(foreign) / len(foreign) / energy
        predicted[name] = float(layer.family.response_energy(matrix, extended).double().mean()) / energy

    with torch.inference_mode():
        store.network(batch.inputs[:_ROWS].to(store.device), own, observe)
    return CrosstalkSample(store.sequence, store.tasks_taught(), measured, predicted)
