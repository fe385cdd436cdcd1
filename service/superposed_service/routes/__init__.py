"""The native API, one router a noun."""

from fastapi import APIRouter

from superposed_service.routes import (
    capacity,
    console,
    consolidation,
    events,
    health,
    keys,
    locating,
    metrics,
    model,
    quarantine,
    rollback,
    rows,
    snapshots,
    store,
    tasks,
)

__all__ = ["hot_endpoints", "routers"]

_MODULES = (
    health,
    store,
    tasks,
    rows,
    model,
    capacity,
    snapshots,
    rollback,
    quarantine,
    keys,
    locating,
    consolidation,
    metrics,
    events,
    console,
)

routers: list[APIRouter] = [module.router for module in _MODULES]
hot_endpoints = {
    ("POST", "/v1/infer"): rows.infer,
    ("POST", "/v1/update"): rows.update,
    ("POST", "/v1/evaluate"): rows.evaluate,
}
