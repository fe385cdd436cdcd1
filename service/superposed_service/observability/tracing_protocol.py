"""Protocol of a tracer: `opentelemetry.py` implements it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = ["RequestSpan", "Tracing"]


class RequestSpan(Protocol):
    """The span of a request that is being served."""

    def end(self, status: int, request: str) -> None:
        """Note the answer's status and the request's id."""


class Tracing(Protocol):
    """Receiver of spans. Any thread."""

    def request(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[RequestSpan]:
        """Return the span of an HTTP request, current inside the block.

        Args:
            method: The request's.
            path: Its route's template.
            headers: The request's; `traceparent` may name the trace that it belongs to.
        """

    def current(self) -> object:
        """Return the trace of the request that is being served here; None where it has none."""

    def span(
        self, trace: object, name: str, began: float, ended: float, attributes: Mapping[str, Any]
    ) -> None:
        """Note a span that has ended; both times on `perf_counter`'s clock."""

    def shutdown(self) -> None:
        """Send what is left."""
