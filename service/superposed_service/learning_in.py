"""Learning a trained model in: distilled into a task, as ordinary updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from superposed.distillation import Lessons, lessons
from superposed.retrieval import RetrievedModel
from superposed.store import WeightStore
from superposed_service.changes import JsonObject
from superposed_service.engine import Engine
from superposed_service.origin import Origin
from superposed_service.rows import Rows

__all__ = ["learn_model"]

_BATCH_ROWS = 128


async def learn_model(
    engine: Engine,
    key: str,
    data: bytes,
    passes: int,
    most_rows: int,
    spend: Callable[[int, int], None],
    origin: Origin | None,
    author: str | None,
) -> JsonObject:
    """Teaches a task what a network answers to its sample rows.

    Args:
        engine: Runs the updates, each in its turn.
        key: The task.
        data: A safetensors file: the network and its rows.
        passes: How often the rows are gone through.
        most_rows: Of one update.
        spend: Told before the first update how many rows, and updates, it will take; may refuse.
        origin: The request: sent again, it goes on where it stopped.
        author: Who asks.

    Returns:
        Sequence, number of updates, and agreement on the rows held out.

    Raises:
        SuperposedError: The file cannot be used, or an update was refused; those before it stay.
    """
    taught = await engine.call(lambda store: _prepare(store, key, data))
    size, count = min(_BATCH_ROWS, most_rows), len(taught.inputs)
    spend(passes * count, passes * math.ceil(count / size))
    updates, answer = 0, JsonObject()
    for inputs, targets in taught.batches(passes, size):
        rows, part = Rows(key, None, inputs.numpy()), origin and origin.part(updates)
        answer = await engine.update(rows, targets.tolist(), 1, part, author)
        updates += 1
    agreement = await engine.call(lambda store: _agreement(store, key, taught))
    return {"sequence": answer["sequence"], "updates": updates, "agreement": agreement}


def _prepare(store: WeightStore, key: str, data: bytes) -> Lessons:
    return lessons(RetrievedModel.from_bytes(data), store.tasks.get(key).schema)


def _agreement(store: WeightStore, key: str, taught: Lessons) -> float:
    batch: Any = store.batch(key, taught.held_inputs)
    logits: torch.Tensor = store.logits(batch)
    return taught.agreement(logits[:, : store.tasks.get(key).schema.outputs])
