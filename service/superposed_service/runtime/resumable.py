"""A request that makes several changes, one after another: whose it is, and whether it is still wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from superposed.errors import CapacityExceeded
from superposed_service.engine.writer import Writer
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

    def answered(self, writer: Writer, most: int) -> int:
        """Return the number of its first `most` changes that an earlier attempt has completed.

        Raises:
            IdempotencyMismatch: The request's key came with another request.
            SuperposedError: One of them was refused so.
        """
        if self.idempotency_key is None:
            return 0
        number = 0
        while number < most and writer.answer_to(self.idempotency_key.part(number)) is not None:
            number += 1
        return number


def check_steps(steps: int, most: int) -> None:
    """Raise `CapacityExceeded` where one request would take more optimizer steps than it may, in all."""
    if steps > most:
        raise CapacityExceeded(
            "more steps than one request may take", expected=f"{most} at most", received=steps
        )
