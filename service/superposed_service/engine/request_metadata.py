"""Metadata of a request: its API key and its deadline, for the queues.

It is set where a request comes in, HTTP or gRPC, and follows the request through its task: what lies between
need not hand it on.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass

from superposed_service.errors import InvalidRequest

ANYONE = "anyone"
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class RequestMetadata:
    """API key and deadline of a request."""

    source: str = ""  # an API key's id, `ANYONE` on a server without keys; empty for the service itself
    deadline: float | None = None  # on the monotonic clock, seconds; None leaves it to the settings

    def left_s(self, most: float) -> float:
        """Return seconds until the deadline, from 0 to `most`."""
        return most if self.deadline is None else min(most, max(0.0, self.deadline - time.monotonic()))


_SERVICE = RequestMetadata()
_caller: ContextVar[RequestMetadata] = ContextVar("superposed_caller", default=_SERVICE)


def current_request() -> RequestMetadata:
    """Return the metadata of the request that this task works on; of the service itself without a request."""
    return _caller.get()


@contextmanager
def calling(source: str, timeout_s: float | None = None) -> Iterator[None]:
    """Set the metadata of a request for as long as it is worked on; its answer is of use for `timeout_s` seconds."""
    token = enter(source, timeout_s)
    try:
        yield
    finally:
        _caller.reset(token)


def enter(source: str, timeout_s: float | None = None) -> Token[RequestMetadata]:
    """Set the metadata to the end of the task; see `calling`."""
    return _caller.set(RequestMetadata(source, None if timeout_s is None else time.monotonic() + timeout_s))


def timeout_of(header: str | None) -> float | None:
    """Return the seconds of a `Request-Timeout` header, or None; raise `InvalidRequest` for no number above 0."""
    if header is None:
        return None
    text = header.strip()
    if not _SECONDS.fullmatch(text) or float(text) == 0:
        wrong, given = "Request-Timeout: not a number of seconds", header[:100]
        raise InvalidRequest(wrong, expected="a number above 0", received=given)
    return float(text)
