"""Joining a group: a new member starts from what the other members have learned."""

import torch
from torch import Tensor

from superposed.store.store import WeightStore
from superposed.tasks.registry import TaskState
from superposed.tasks.schema import TaskSchema

# Most members whose output layers are averaged: this bounds what a registration costs.
_MOST_MEMBERS = 64


def register(
    store: WeightStore, schema: TaskSchema, *, author: str = "", recorded: bool = False
) -> tuple[TaskState, bool]:
    """Register a task; arguments, result and errors as `WeightStore.register`.

    A new member of a group whose output layer alone is its own is given the mean of the output layers that
    other members have learned (the 64 that joined last, at most), label by label, or output by output without
    labels. It is superposed under the member's context: the member answers as its group before its first row.
    """
    state, new = store.register(schema, author=author, recorded=recorded)
    if new and state.schema.group is not None and state.schema.own_layers == 1:
        _start(store, state)
    return state, new


def _start(store: WeightStore, state: TaskState) -> None:
    members = _members(store, state.schema)
    layer = list(store.network.superposed_layers().values())[-1]
    if not members or layer.family.components != 1:
        return
    with torch.no_grad():
        context, model = _output_layer(store, state)
        total = layer.weight.new_zeros(state.schema.outputs, layer.width)
        counts = layer.weight.new_zeros(state.schema.outputs, 1)
        for member in members:
            own, theirs = _common(state.schema, member.schema)
            total[own] += _output_layer(store, member)[1][theirs]
            counts[own] += 1
        if not bool(counts.any()):
            return
        change = torch.zeros_like(model)
        change[: len(total)] = total / counts.clamp(min=1) - model[: len(total)]
        layer.weight.add_(layer.family.bind(change, context))
    state.started = True


def _output_layer(store: WeightStore, state: TaskState) -> tuple[Tensor, Tensor]:
    """Return a task's context in the output layer, and that layer as retrieved: (D_out, width)."""
    name, layer = list(store.network.superposed_layers().items())[-1]
    context = store.contexts.source.derive(store.resolve(state.schema.key).context, name).to(layer.weight)
    return context, layer.family.retrieve(layer.weight, context)


def _members(store: WeightStore, schema: TaskSchema) -> list[TaskState]:
    """Return taught members of the same group that a task may start from."""
    found = [
        one
        for one in store.tasks.all()
        if one.updates
        and one.schema.key != schema.key
        and (one.schema.group, one.schema.own_layers) == (schema.group, 1)
        and (one.schema.loss, one.schema.label_type) == (schema.loss, schema.label_type)
        and (schema.labels is not None or one.schema.outputs == schema.outputs)
    ]
    return found[-_MOST_MEMBERS:]


def _common(schema: TaskSchema, other: TaskSchema) -> tuple[list[int], list[int]]:
    """Return the outputs that mean the same in two tasks: by label, or by place where there are none."""
    if schema.labels is None:
        places = list(range(schema.outputs))
        return places, places
    shared = [label for label in schema.labels if label in other.classes]
    return [schema.classes[label] for label in shared], [other.classes[label] for label in shared]
