"""Crosstalk: how much of a response is noise from the other tasks, measured and predicted.

After online learning no separate W(k) exists, so crosstalk is defined on responses. Per layer, it is
the mean response energy to a task's rows under contexts that were never registered, over the mean
response energy under the task's own context. The law predicts the first of the two from the weights
alone: `E |w C x|²` over random C (METHOD: the variance of the residual).
"""

import math

import torch
from torch import Tensor

from superposed.contexts import Context, TaskId
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
    is its own and not that of the layers before it.

    Returns:
        The measured and the predicted ratio of each layer: 0 is no noise, 1 is as much response to a
        foreign context as to the own one. None where a ratio is not a finite number (rows too large, or no
        response at all).
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
