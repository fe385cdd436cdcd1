"""How the store, its tasks and its capacity are shown: library values to API bodies."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch

from superposed.capacity import capacity
from superposed.contexts import DERIVATION_VERSION
from superposed.store import WeightStore
from superposed.tasks import TaskState
from superposed_service.settings import Settings

__all__ = ["capacity_body", "fingerprint", "store_body", "task_body"]


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


def capacity_body(store: WeightStore) -> dict[str, Any]:
    """The body of `GET /v1/capacity`; what is not known yet is left out."""
    return {name: value for name, value in asdict(capacity(store)).items() if value is not None}
