"""The native API, one router a noun."""

from fastapi import APIRouter

from superposed_service.api.v1.routes import (
    api_keys,
    console,
    events,
    health,
    history,
    inference,
    replication,
    store,
    stream,
    tasks,
)

_MODULES = (health, store, tasks, inference, stream, history, api_keys, events, replication, console)
routers: list[APIRouter] = [module.router for module in _MODULES]
