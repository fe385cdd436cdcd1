"""Progress of a replay."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_log = logging.getLogger("superposed.recovery")
_LOG_EVERY_S = 5.0


@dataclass
class Progress:
    """Of the newest replay: at the start, or by a rollback. Written by one thread, read by any."""

    total: int = 0  # records to apply
    done: int = 0  # of them applied

    def watch(self, walk: Iterable[T], total: int) -> Iterator[T]:
        """Go with a replay, and log every few seconds how far it is."""
        self.total, self.done = total, 0
        logged = time.monotonic()
        for one in walk:
            self.done += 1
            yield one
            if (now := time.monotonic()) - logged > _LOG_EVERY_S:
                logged = now
                _log.info("replaying", extra={"done": self.done, "total": total})
