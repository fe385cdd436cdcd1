"""What is known of a request while it is served: for whatever is counted or logged meanwhile."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["AUTHOR", "STATUS", "request_id"]

# Where an ASGI scope keeps the status that was answered.
STATUS = "superposed.status"
# And the id of the API key that asked.
AUTHOR = "superposed.author"

request_id: ContextVar[str] = ContextVar("superposed_request_id", default="")
