"""The native API, one router a noun."""

from fastapi import APIRouter

from superposed_service.routes import (
    capacity,
    health,
    keys,
    model,
    quarantine,
    rollback,
    rows,
    snapshots,
    store,
    tasks,
)

__all__ = ["routers"]

_MODULES = (health, store, tasks, rows, model, capacity, snapshots, rollback, quarantine, keys)

routers: list[APIRouter] = [module.router for module in _MODULES]
