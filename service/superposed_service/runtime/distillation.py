"""Learning a trained model in: distilled into a task, as ordinary updates."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from superposed.analysis.retrieval import RetrievedModel
from superposed.learning.distillation import DistillationSet, distillation_set, held_out
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets
from superposed_service.changes.base import JsonObject
from superposed_service.changes.rows import RowBatch
from superposed_service.engine.engine import Engine
from superposed_service.runtime.resumable import ResumableRequest, check_steps
from superposed_service.settings import Settings

_BATCH_ROWS = 128
# Teacher networks run here, one at a time, so that the engine thread stays free.
_TEACHERS = ThreadPoolExecutor(1, "superposed-teacher")


async def learn_model(
    engine: Engine,
    settings: Settings,
    key: str,
    data: bytes,
    epochs: int,
    spend: Callable[[int, int], None],
    resumable: ResumableRequest,
) -> JsonObject:
    """Teach a task what a network answers to its sample rows.

    Args:
        engine: Runs the updates, each in its turn.
        settings: How many rows one update, and how many updates one request may have.
        key: The task.
        data: A safetensors file: the network and its rows.
        epochs: How often the rows are gone through.
        spend: Told how many rows and updates it will take, before anything is computed; may refuse. What was
            answered when the request came before is not counted again.
        resumable: The request.

    Returns:
        Sequence, number of updates, and agreement on the rows held out.

    Raises:
        CapacityExceeded: More updates than one request may make.
        SuperposedError: The file cannot be used, or an update was refused; those before it stay.
    """
    loop, size = asyncio.get_running_loop(), min(_BATCH_ROWS, settings.max_rows)
    schema = await engine.call(lambda store: store.tasks.get(key).schema)
    model = await loop.run_in_executor(_TEACHERS, RetrievedModel.from_bytes, data)
    plan = _Plan(_learned(model), epochs, size)
    check_steps(plan.updates, settings.max_request_steps)
    answered = await engine.call_writer(lambda writer: resumable.answered(writer, plan.updates))
    spend(plan.rows_after(answered), plan.updates - answered)
    taught = await loop.run_in_executor(_TEACHERS, distillation_set, model, schema)
    updates, answer = 0, JsonObject()
    for inputs, targets in taught.batches(epochs, size):
        await resumable.check()
        rows = RowBatch(key, None, inputs.numpy())
        rows.check(settings.max_rows, settings.max_row_values)
        # Classes of the network are indexes, not labels.
        aims = Targets(targets, None) if targets.ndim == 1 else targets.tolist()
        answer = await engine.update(rows, aims, 1, resumable.part(updates), resumable.author)
        updates += 1
    agreement = await _agreement(engine, key, taught, settings.max_rows)
    return {"sequence": answer["sequence"], "updates": updates, "agreement": agreement}


class _Plan:
    """Plan of a distillation.

    Args:
        rows: Rows of one pass.
        epochs: How many there are.
        size: Rows of one update.
    """

    def __init__(self, rows: int, epochs: int, size: int) -> None:
        self._rows, self._epochs, self._size = rows, epochs, size
        self._updates = math.ceil(rows / size)  # of one pass

    @property
    def updates(self) -> int:
        """Number of updates in all."""
        return self._epochs * self._updates

    def rows_after(self, updates: int) -> int:
        """Return the number of rows in the updates after the first `updates`."""
        done, rest = divmod(updates, self._updates) if self._updates else (0, 0)
        return (self._epochs - done) * self._rows - rest * self._size


def _learned(model: RetrievedModel) -> int:
    """Return the number of a network's sample rows that are learned."""
    rows = model.tensors.get("rows")
    count = len(rows) if rows is not None and rows.ndim else 0
    return max(0, count - held_out(count))


async def _agreement(engine: Engine, key: str, taught: DistillationSet, size: int) -> float:
    """Return the agreement of the task with the network, measured a few rows in each turn of the engine."""
    parts = torch.split(taught.held_inputs, size)
    answers = [await engine.call(partial(_answers, key=key, rows=rows), size=len(rows)) for rows in parts]
    return taught.agreement(torch.cat(answers))


def _answers(store: WeightStore, *, key: str, rows: torch.Tensor) -> torch.Tensor:
    batch: Any = store.batch(key, rows)
    logits: torch.Tensor = store.answers(batch)
    schema: TaskSchema = store.tasks.get(key).schema
    return logits[:, : schema.outputs]
