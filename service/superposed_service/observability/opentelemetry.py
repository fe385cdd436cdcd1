"""Traces by OpenTelemetry, which comes with the extra `otel`. Imported only where traces are on.

Where spans go, how many are sampled, and what the service is called there: OpenTelemetry's own environment
variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, ...).
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate
from opentelemetry.context import Context, get_current
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span

from superposed_service.observability.request_ids import CLIENT_LEFT, STATUS, request_id


def exporting() -> TracerProvider:
    """Return a provider that sends spans over OTLP."""
    named = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "superposed")}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """Spans of requests, and of what the engine does for them. Any thread."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("superposed")

    @contextmanager
    def request(self, scope: Mapping[str, Any], method: str, path: str) -> Iterator[None]:
        """Put an HTTP request, by its ASGI scope, into a span of the trace that its `traceparent` names."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {"http.request.method": method, "http.route": path}
        with self._tracer.start_as_current_span(
            f"{method} {path}",
            context=propagate.extract(headers),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,  # an exception's message may hold what a client sent
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                status = scope.get(STATUS, CLIENT_LEFT)
                span.set_attribute("http.response.status_code", status)
                span.set_attribute("superposed.request_id", request_id.get())
                if status >= 500:
                    span.set_status(Status(StatusCode.ERROR))

    def current(self) -> Context | None:
        """Return the trace of the current request; None where it has none, or is not sampled."""
        return get_current() if get_current_span().is_recording() else None

    def span(self, trace: object, name: str, began: float, ended: float, attributes: Mapping[str, Any]) -> None:
        """Note a span that has ended."""
        assert isinstance(trace, Context)  # noqa: S101 - what `current` gave
        offset_ns = time.time_ns() - time.perf_counter_ns()
        start, end = (int(moment * 1e9) + offset_ns for moment in (began, ended))
        self._tracer.start_span(name, context=trace, start_time=start, attributes=dict(attributes)).end(end)

    def shutdown(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
