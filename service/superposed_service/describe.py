"""What routes ask of the store, on the engine's thread: API bodies from library values, and back."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch

from superposed.capacity import capacity
from superposed.config import validated
from superposed.contexts import DERIVATION_VERSION
from superposed.retrieval import retrieve_model
from superposed.store import WeightStore
from superposed.tasks import TaskSchema, TaskState
from superposed_service.schemas import TaskRegistration
from superposed_service.settings import Settings

__all__ = [
    "capacity_body",
    "delete_task",
    "fingerprint",
    "model_bytes",
    "register_task",
    "show_task",
    "store_body",
    "task_page",
]


def fingerprint(device: torch.device) -> dict[str, Any]:
    """What bit-identical replay depends on: same fingerprint, same records, same bits."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def store_body(store: WeightStore, settings: Settings) -> dict[str, Any]:
    """The body of `GET /v1/store`."""
    return {
        "family": store.config.family,
        "network": store.config.network.model_dump(mode="json"),
        "derivation_version": DERIVATION_VERSION,
        "limits": {
            "rows": settings.max_rows,
            "steps": settings.max_steps,
            "body_bytes": settings.max_body_bytes,
            "contexts": store.contexts.capacity,
            "gradient_norm": store.config.gradient_norm_cap,
        },
        "optimizer": store.config.optimizer.model_dump(mode="json"),
        "device": str(store.device),
        "dtype": store.config.dtype,
        "sequence": store.sequence,
        "tasks": len(store.tasks),
        "bytes": {
            "weights": store.weight_bytes,
            "optimizer": store.optimizer_bytes,
            "contexts_cached": store.contexts.cached_bytes,
        },
        "fingerprint": fingerprint(store.device),
    }


def task_body(state: TaskState) -> dict[str, Any]:
    """A task, as the service shows it."""
    schema, seen = state.schema, state.prequential
    return {
        **schema.model_dump(mode="json"),
        "rows_seen": seen.rows,
        "updates": state.updates,
        "prequential": {"accuracy": seen.accuracy(schema.loss), "loss": seen.loss},
        "last_sequence": state.last_sequence,
    }


def register_task(store: WeightStore, body: TaskRegistration) -> tuple[dict[str, Any], bool]:
    """Registers a task from its request; the task, and whether it is new."""
    values = body.model_dump()
    values["inputs"] = body.inputs or store.config.network.inputs
    values["outputs"] = body.outputs or len(body.labels or ())
    state, new = store.register(validated(TaskSchema, values))
    return task_body(state), new


def task_page(
    store: WeightStore, prefix: str, after: str, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of tasks in the order of keys, and the last key where more follow."""
    states, last = store.tasks.page(prefix, after, limit)
    return [task_body(state) for state in states], last


def show_task(store: WeightStore, key: str) -> dict[str, Any]:
    """One task."""
    return task_body(store.tasks.get(key))


def delete_task(store: WeightStore, key: str) -> None:
    """Forgets a task."""
    store.delete(key)


def model_bytes(store: WeightStore, context: object) -> bytes:
    """A context's model as a safetensors file."""
    return retrieve_model(store, context).to_bytes()


def capacity_body(store: WeightStore) -> dict[str, Any]:
    """The body of `GET /v1/capacity`; what is not known yet is left out."""
    return {name: value for name, value in asdict(capacity(store)).items() if value is not None}
