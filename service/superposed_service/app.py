"""Wiring: settings to a data directory, a store, an engine, and the routes in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from superposed.errors import ConfigError, SuperposedError
from superposed.store import WeightStore
from superposed_service.engine import Engine
from superposed_service.errors import InvalidRequest
from superposed_service.middleware import BodyLimit, RequestId
from superposed_service.problems import PROBLEM_MEDIA_TYPE, problem_response
from superposed_service.routes import routers
from superposed_service.running import Running
from superposed_service.schemas import ProblemBody
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

__all__ = ["create_app", "load_store"]


_PROBLEM: dict[str, Any] = {
    "description": "A problem (RFC 9457): what went wrong, what was expected, what came.",
    "content": {PROBLEM_MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}},
}


def load_store(directory: DataDirectory, device: str) -> WeightStore:
    """Reads the newest snapshot's store.

    Raises:
        ConfigError: The directory holds no store, or the device is not there.
        SnapshotMismatch: The newest snapshot is damaged.
    """
    snapshots = directory.snapshots.list()
    if not snapshots:
        raise ConfigError(f"{directory.path} holds no store", expected="one made by `superposed init`")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here", expected="--device cpu or auto", received=device)
    return WeightStore.from_bytes(directory.snapshots.read(snapshots[-1]), device=device)


def create_app(settings: Settings, directory: DataDirectory) -> FastAPI:
    """The ASGI application over a data directory that the caller owns.

    A clean stop finishes what was admitted and writes a snapshot.

    Raises:
        ConfigError: The directory holds no store, or the device is not there.
        SnapshotMismatch: The newest snapshot is damaged.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    loaded = load_store(directory, settings.device)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = Engine(loaded, settings)
        engine.start()
        app.state.running = Running(settings, engine, directory)
        try:
            yield
        finally:
            store = engine.stop()
            directory.snapshots.write(store.to_bytes(), sequence=store.sequence)

    app = FastAPI(
        title="superposed",
        version="1",
        summary="Many task models in one set of weights, each served and taught by its key.",
        lifespan=lifespan,
        redirect_slashes=False,
        # The framework's own 422 is not ours: every refusal is a problem document.
        responses=dict.fromkeys(("4XX", "5XX", 422), _PROBLEM),
    )
    for router in routers:
        app.include_router(router)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestId)
    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(SuperposedError)
    async def known(request: Request, error: SuperposedError) -> Response:
        return problem_response(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = InvalidRequest(f"{place}: {first['msg']}", received=repr(first.get("input"))[:100])
        return problem_response(problem, request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        response = problem_response(error.status_code, request.url.path, str(error.detail))
        response.headers.update(error.headers or {})
        return response
