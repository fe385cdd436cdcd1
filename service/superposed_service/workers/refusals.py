"""What a worker refuses by itself, as the engine's process would: heads, which that never gets to see."""

from __future__ import annotations

import json

__all__ = ["refusal"]

_REFUSALS = {
    408: ("Request timeout", "request-timeout", "the request did not arrive in time: its head took too long"),
    431: ("Headers too large", "headers-too-large", "the request's head is too long"),
}


def refusal(status: int) -> bytes:
    """The whole answer, a problem document, after which the connection is closed."""
    title, slug, detail = _REFUSALS[status]
    problem = {"type": f"urn:superposed:problem:{slug}", "title": title, "status": status, "detail": detail}
    body = json.dumps(problem | {"instance": "/"}).encode()
    head = [
        f"HTTP/1.1 {status} {title}",
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
