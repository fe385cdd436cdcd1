"""The native API, one router a noun."""

from fastapi import APIRouter

from superposed_service.api.v1.routes import (
    api_keys,
    capacity,
    console,
    consolidation,
    events,
    health,
    inference,
    locate,
    metrics,
    models,
    quarantine,
    relabel,
    rollback,
    snapshots,
    store,
    tasks,
)

__all__ = ["routers"]

_MODULES = (
    health,
    store,
    tasks,
    inference,
    models,
    capacity,
    snapshots,
    rollback,
    quarantine,
    relabel,
    api_keys,
    locate,
    consolidation,
    metrics,
    events,
    console,
)

routers: list[APIRouter] = [module.router for module in _MODULES]
