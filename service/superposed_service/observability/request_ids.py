"""Ids of a request while it is served, for logs, metrics and traces."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

# Where an ASGI scope keeps the status that was answered.
STATUS = "superposed.status"
# And the id of the API key that asked.
AUTHOR = "superposed.author"
# The status of a request that was not answered, because its client left.
CLIENT_LEFT = 499

# Paths that machines ask every few seconds: answered also when nothing else is, and not worth a log line.
PROBES = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})
# A request whose body comes line by line, for as long as its client wants.
STREAM = "/v1/stream"

# The record that an answer to this request must not be older than; and the newest one that its change waited for.
least_sequence: ContextVar[int] = ContextVar("superposed_least_sequence", default=0)
sequence_seen: ContextVar[int] = ContextVar("superposed_sequence_seen", default=0)
request_id: ContextVar[str] = ContextVar("superposed_request_id", default="")


def header(scope: Mapping[str, Any], name: bytes) -> str | None:
    """Return a header of an ASGI scope's request, by its name in lower case; None without one."""
    for known, value in scope["headers"]:
        if known == name:
            return str(value, "latin-1")
    return None
