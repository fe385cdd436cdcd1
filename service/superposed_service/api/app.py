"""Wiring: settings to a data directory, a store, an engine, and the routes in front of it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp

from superposed.errors import ConfigError, SuperposedError
from superposed_client.models import RecoveryInfo
from superposed_service.api.auth import Access, requires
from superposed_service.api.auth.rate_limits import Quotas
from superposed_service.api.middleware.admission import Freshness, check_room, check_site
from superposed_service.api.middleware.gateway import RejectionDelay, RequestGateway
from superposed_service.api.middleware.request_metrics import Observed
from superposed_service.api.middleware.route_table import ROUTE, FastRoutes, RouteTable, describe_access
from superposed_service.api.problems import INTERNAL, PROBLEM_MEDIA_TYPE, problem_response
from superposed_service.api.server.direct_inference import DirectInference
from superposed_service.api.v1.routes import routers
from superposed_service.api.v2.routes import router as v2_router
from superposed_service.changes.replay import fingerprint, recover
from superposed_service.changes.snapshot import start_history
from superposed_service.engine.engine import Engine
from superposed_service.engine.poison_detector import PoisonDetector
from superposed_service.engine.telemetry import Telemetry
from superposed_service.engine.writer import Writer
from superposed_service.errors import InvalidRequest
from superposed_service.followers.member import Member, urls
from superposed_service.observability.counters import Metrics
from superposed_service.observability.request_ids import CLIENT_LEFT
from superposed_service.runtime.encoding import Encoders
from superposed_service.runtime.event_stream import Events
from superposed_service.runtime.gauges import observe
from superposed_service.runtime.runtime import Runtime
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

if TYPE_CHECKING:
    from superposed_service.observability.opentelemetry import Tracing


_log = logging.getLogger("superposed")
_HANDLED = (SuperposedError, RequestValidationError, ClientDisconnect, HTTPException, Exception)
_PROBLEM: dict[str, Any] = {
    "description": "A problem (RFC 9457): the failure, the expectation, the value received.",
    "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
}


def open_store(
    directory: DataDirectory, settings: Settings, telemetry: Telemetry | None = None
) -> tuple[Writer, RecoveryInfo]:
    """Recover the store of a directory: the newest good snapshot, and the journal after it.

    Where the records were first applied by other arithmetic, a fresh snapshot of the result is taken. Raise
    `ConfigError` where the directory holds no store or the device is not there, `StorageError` where the store cannot
    be recovered exactly as it was.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here", expected="--device cpu or auto", received=device)
    if device == "cpu" and settings.inference_precision != "float32":
        text = "only a GPU answers in another precision than the weights'"
        wanted = "SUPERPOSED_INFERENCE_PRECISION=float32, or a GPU"
        raise ConfigError(text, expected=wanted, received=settings.inference_precision)
    if directory.untouched:
        raise ConfigError(f"{directory.path} holds no store", expected="one made by `superposed init`")
    transaction_log = directory.transaction_log()
    transaction_log.answers.limit(kept_s=settings.idempotency_retention_s, most=settings.idempotency_responses)
    telemetry = telemetry or Telemetry(Metrics(0))
    store, recovery = recover(directory.snapshots, transaction_log, device, progress=telemetry.replay)
    detector = PoisonDetector(store, transaction_log, settings) if settings.canary_rows else None
    writer = Writer(store, transaction_log, detector=detector, telemetry=telemetry, replayed=recovery.replayed)
    known = {"sequence": store.sequence, "snapshot": recovery.snapshot, "replayed": recovery.replayed}
    _log.info("store opened", extra=known)
    if "preset" in settings.model_fields_set and settings.preset != (kept := store.config.preset):
        _log.warning("a store keeps its preset", extra={"preset": kept, "asked": settings.preset})
    if recovery.fingerprint_changed:
        snapshot = writer.snapshot(directory.snapshots, settings.history_records)
        if recovery.rules_changed:
            _log.warning(
                "an earlier release with other rules wrote this directory: no rollback reaches past now",
                extra={"sequence": snapshot.sequence},
            )
            start_history(writer.transaction_log, directory, snapshot)
    transaction_log.journal.set_fingerprint(fingerprint(store.device))
    transaction_log.journal.set_identity(store.lineage, secrets.token_hex(16))
    store.prepare(torch.bfloat16 if settings.inference_precision == "bfloat16" else None)
    return writer, recovery


def create_app(settings: Settings, directory: DataDirectory) -> ASGIApp:
    """Return the ASGI application over a data directory that the caller owns; raises as `create_api`."""
    return guarded(create_api(settings, directory), settings)


def guarded(api: FastAPI, settings: Settings) -> ASGIApp:
    """Wrap an API in its middleware: metrics, request id, API key, quota, admission, body limit."""
    access: Access = api.state.access
    gateway = RequestGateway(
        FastRoutes(api),
        (check_site, lambda scope: access.check(scope, scope[ROUTE].endpoint), partial(check_room, api)),
        max_bytes=settings.max_body_bytes,
        most_held=settings.max_inflight_bytes,
        rejection_delay=RejectionDelay(settings.rejection_delay_ms / 1000, settings.rejections_per_s),
        freshness=Freshness(api.state.writer),
    )
    telemetry: Telemetry = api.state.telemetry
    if telemetry.tracing is None and settings.access_log != "all":
        api.state.direct = DirectInference(api, access, gateway, telemetry.metrics)
    return Observed(
        gateway, telemetry.metrics, RouteTable(api.state.routes), tracing=telemetry.tracing, log=settings.access_log
    )


def create_api(settings: Settings, directory: DataDirectory, tracing: Tracing | None = None) -> FastAPI:
    """Return the routes, and the engine that runs while they are served.

    A clean stop finishes what was admitted and writes a snapshot. The caller owns the directory. Spans go to
    `tracing`; default as the settings say. Raises as `open_store`, and as `urls`.
    """
    urls(settings)  # before anything is opened
    torch.set_num_threads(settings.threads or _spare_threads())
    telemetry = Telemetry(Metrics(settings.metrics_tasks), tracing or _tracing(settings))
    writer, recovery = open_store(directory, settings, telemetry)
    keys, cyclic = writer.transaction_log.api_keys, writer.store.config.family == "cyclic"
    access = Access(keys, Quotas(settings), cyclic=cyclic)
    events = Events(settings)
    writer.observer = events.applied

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = Engine(writer, settings)
        engine.start()
        configs, folder = writer.store.config.encoders, directory.path / "encoders"
        encoders = Encoders(configs, folder, settings.threads or _spare_threads(), settings)
        telemetry.metrics.registry.register(encoders)
        newest = str(directory.snapshots.list()[-1].sequence)
        runtime = Runtime(settings, engine, directory, recovery, newest, telemetry, events, encoders)
        app.state.runtime = runtime
        observe(telemetry.metrics.registry, runtime, writer)
        watching = [*map(asyncio.create_task, (runtime.background_loop(), runtime.heartbeat()))]
        app.state.member = member = Member(runtime)
        watching.append(await member.start())
        try:
            async with _grpc(runtime, access):
                yield
        finally:
            runtime.stop_background()
            events.close()
            await asyncio.wait(watching)
            encoders.close()
            stopped = engine.stop()
            _log.info("engine stopped", extra={"sequence": stopped.store.sequence})
            if directory.replaced:
                _log.critical(
                    "another directory stands at the path: nothing is written", extra={"path": str(directory.path)}
                )
            elif stopped.transaction_log.failure is None:
                stopped.snapshot(directory.snapshots, settings.history_records)
            if telemetry.tracing is not None:
                await asyncio.to_thread(telemetry.tracing.shutdown)

    app = FastAPI(
        title="superposed",
        version="1",
        summary="Many task models in one set of weights, each served and taught by its key.",
        lifespan=lifespan,
        exception_handlers=dict.fromkeys(_HANDLED, _answer_error),
        redirect_slashes=False,
        docs_url=None,  # the framework's own page loads its scripts from elsewhere
        redoc_url=None,
        # The framework's own 422 is not ours: every refusal is a problem document.
        responses=dict.fromkeys(("4XX", "5XX", 422), _PROBLEM),
    )
    app.state.writer, app.state.direct, app.state.access = writer, None, access
    app.state.telemetry, app.state.events = telemetry, events
    app.state.routes = _include(app, (*routers, v2_router))
    describe_access(app)
    return app


def _include(app: FastAPI, included: Sequence[APIRouter]) -> list[Route]:
    """Include routers; return all routes, the framework's own one for the OpenAPI document first."""
    own = [route for route in app.routes if isinstance(route, Route)]
    for route in own:
        requires("infer")(route.endpoint)
    for router in included:
        app.include_router(router)
    return [*own, *(route for router in included for route in router.routes if isinstance(route, Route))]


def _spare_threads() -> int:
    """Return the number of cores but one, which is the event loop's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), cores - 1))


def _grpc(runtime: Runtime, access: Access) -> AbstractAsyncContextManager[None]:
    """Return the context in which gRPC is served, where it has an address."""
    if not runtime.settings.grpc_address:
        return nullcontext()
    from superposed_service.api.v2.grpc_server import GrpcServer  # gRPC is slow to import

    return GrpcServer(runtime, access)


def _tracing(settings: Settings) -> Tracing | None:
    """Return the OpenTelemetry tracer, imported only where traces are on."""
    if not settings.traces:
        return None
    try:
        from superposed_service.observability.opentelemetry import Tracing, exporting
    except ModuleNotFoundError as error:
        text, remedy = "traces need OpenTelemetry", "pip install 'superposed[otel]'"
        raise ConfigError(text, expected=remedy, received=error.name) from None
    return Tracing(exporting())


async def _answer_error(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, SuperposedError):
        return problem_response(error, path)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = InvalidRequest(f"{place}: {first['msg']}", received=repr(first.get("input"))[:100])
        return problem_response(problem, path)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_LEFT)  # no client reads it; it is counted
    if isinstance(error, HTTPException):
        response = problem_response(error.status_code, path, str(error.detail))
        response.headers.update(error.headers or {})
        return response
    return problem_response(500, path, INTERNAL)  # raised again by the framework, and logged by `RequestGateway`
