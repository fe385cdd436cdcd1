"""Before a body is read: whose page asks, until when an answer is of use, how new it must be, and if there is room.

Read your writes through any server: answers say how new the store was, requests how new it must be.
"""

import asyncio
import time
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.types import Scope

from superposed_service.api.auth import principal_of
from superposed_service.engine.request_queues import ANYONE, enter, timeout_of
from superposed_service.engine.writer import Writer
from superposed_service.errors import Forbidden, InvalidRequest, NotFresh
from superposed_service.observability.request_ids import header, least_sequence, sequence_seen
from superposed_service.runtime.runtime import Runtime

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ROWS = ("/infer", "/update", "/evaluate", "/locate")


def check_site(scope: Scope) -> None:
    """Raise `Forbidden` where a request that changes or asks something comes from another site's page.

    Source: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
    """
    if scope["method"] in _READING:
        return
    site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
    if site:
        own = site in {"same-origin", "none"}
    else:
        own = origin is None or urlsplit(origin).netloc == header(scope, b"host")
    if not own:
        text = "the request comes from another site's page"
        raise Forbidden(text, expected="a page of this server, or a program", received=site or origin)


def check_room(api: Starlette, scope: Scope) -> None:
    """Note who asks, and until when; where the request is about rows, check its estimated wait.

    Raise `Overloaded` where the response would come too late, at the least possible cost, and `InvalidRequest` where
    `Request-Timeout` is no number of seconds.
    """
    timeout_s = timeout_of(header(scope, b"request-timeout"))
    enter(principal_of(scope).author or ANYONE, timeout_s)
    path: str = scope["path"]
    if scope["method"] == "POST" and path.endswith(_ROWS):
        runtime: Runtime = api.state.runtime
        runtime.engine.check_room(reads=path.endswith("/infer"))


MIN_SEQUENCE, SEQUENCE = b"x-min-sequence", b"x-sequence"
_WAIT_S, _LOOK_S, _MOST_DIGITS = 1.0, 0.005, 38


class Freshness:
    """Makes and compares the tokens of one store: its lineage, an epoch, and a record of that epoch."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def token(self) -> str:
        """Return the token of the newest record that the answer to this request may tell of."""
        store, epochs = self._writer.store, self._writer.transaction_log.epochs
        sequence = sequence_seen.get() or store.sequence
        return f"{store.lineage}.{epochs.epoch_of(sequence)}.{sequence}"

    def is_fresh(self, tokens: str) -> bool:
        """Return True if the records of tokens are applied here; raises as `wait`, where one never will be."""
        store, epochs, fresh = self._writer.store, self._writer.transaction_log.epochs, True
        for token in tokens.split(","):
            lineage, epoch, sequence = self._read(token)
            if lineage != store.lineage or epochs.end_of(epoch) <= sequence:
                raise NotFresh("no record of this store's history is the one asked for: it was lost", received=token)
            fresh = fresh and store.sequence >= sequence
        return fresh

    async def wait(self, tokens: str) -> None:
        """Wait briefly for the records of tokens, with commas between; raise `InvalidRequest` for what is no token.

        Raise `NotFresh` for a record that was not applied here in time, or never will be.
        """
        until = time.monotonic() + _WAIT_S
        while not self.is_fresh(tokens):
            if time.monotonic() > until:
                text = "this server's store is not that new yet: ask again, or ask the leader"
                raise NotFresh(text, expected=tokens, received=self.token())
            await asyncio.sleep(_LOOK_S)
        # A follower's store may go back before the answer: to the leader's snapshot, or to before its own tail.
        least_sequence.set(max(self._read(token)[2] for token in tokens.split(",")))

    def _read(self, token: str) -> tuple[str, int, int]:
        lineage, epoch, sequence = [*token.split("."), "", ""][:3]
        if not (epoch.isdecimal() and sequence.isdecimal() and len(epoch + sequence) <= _MOST_DIGITS):
            wanted = "the X-Sequence of an answer"
            raise InvalidRequest("X-Min-Sequence: not a token", expected=wanted, received=token[:100])
        return lineage, int(epoch), int(sequence)
