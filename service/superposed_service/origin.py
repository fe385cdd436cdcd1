"""Where a change came from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from superposed_service.errors import InvalidRequest

__all__ = ["Origin"]

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Origin:
    """A request that changes something, and may be sent twice.

    Args:
        key: Its idempotency key.
        request: SHA-256 of what was asked, 32 bytes.
        owner: The owner of the kept response: `key:<id>` of an API key; without one a task key.
    """

    key: str
    request: bytes
    owner: str = field(default="", compare=False)

    def part(self, number: int) -> Origin:
        """The origin of one of several changes that the request makes, one after another."""
        return Origin(f"{self.key} {number}", self.request)  # no key has a space

    @classmethod
    def of(cls, key: str | None, author: str | None, method: str, target: str, body: bytes) -> Origin | None:
        """The origin that a request's `Idempotency-Key` gives it; None without one.

        Authors do not see each other's keys. The target is the path, with the query where there is one.

        Raises:
            InvalidRequest: The key is no key.
        """
        if key is None:
            return None
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                "not an Idempotency-Key", expected="1 to 255 visible ASCII characters", received=key[:300]
            )
        own = key if author is None else f"{author} {key}"
        return cls(own, hashlib.sha256(f"{method} {target}\n".encode() + body).digest())
