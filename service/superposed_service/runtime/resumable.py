"""A request that makes several changes, one after another: whose it is, and whether it is still wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from superposed_service.storage.idempotency import IdempotencyKey


async def _always() -> None:
    """Accept: the service's own requests end by themselves."""


@dataclass(frozen=True)
class ResumableRequest:
    """A request that makes several changes, and can be resumed after an interruption.

    Args:
        idempotency_key: The request: sent again, it goes on where it stopped.
        author: Who asks.
        check: Called between two changes; raises where the client has left, or the API key
            may not ask any more.
    """

    idempotency_key: IdempotencyKey | None = None
    author: str | None = None
    check: Callable[[], Awaitable[None]] = _always

    def part(self, number: int) -> IdempotencyKey | None:
        """Return the origin of one of the changes."""
        return self.idempotency_key and self.idempotency_key.part(number)
