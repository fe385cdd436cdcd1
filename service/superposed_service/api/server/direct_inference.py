"""Small inference requests answered on the connection: no task, no ASGI messages, no framework objects.

Those are half of a one-row request's cost (docs/decisions/0046-direct-inference.md). A request takes this
way only if it is plain, its body is here, and the event loop may answer it at once. In every other case, and
where anything is wrong with it, it takes the usual way, which checks it again and says what is wrong.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple, cast

from starlette.applications import Starlette
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from superposed.errors import SuperposedError
from superposed_service.api.auth import Access, principal_of
from superposed_service.api.middleware.admission import MIN_SEQUENCE, SEQUENCE
from superposed_service.api.middleware.gateway import REFUSAL, RequestGateway
from superposed_service.api.tensors import HEAD_LENGTH, TENSORS_MEDIA_TYPE
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.inference import infer
from superposed_service.api.v1.schemas import InferBody
from superposed_service.api.v1.task_search import AUTO
from superposed_service.changes.rows import RowBatch
from superposed_service.engine.batcher import InferenceResult
from superposed_service.engine.request_queues import ANYONE, RequestMetadata
from superposed_service.observability.counters import Metrics
from superposed_service.runtime.runtime import Runtime

PATH = "/v1/infer"
_LARGEST_BODY = 65_536  # uvicorn reads as much of a body before anything has asked for it
_HEAD_LENGTH = HEAD_LENGTH.encode()
_READ = frozenset({b"content-type", b"accept", b"content-length", _HEAD_LENGTH})
# Further headers that change nothing here.
_PLAIN = frozenset({b"host", b"user-agent", b"accept-encoding", b"connection", b"authorization"})
_PLAIN |= {b"x-request-id", b"traceparent"}


class Head(NamedTuple):
    """Headers of a request: of its body, and whether its answer may hold tensors."""

    content_type: str | None
    head_length: str | None
    tensors: bool


class DirectInference:
    """Answers requests of `PATH` whose body is here."""

    def __init__(self, api: Starlette, access: Access, gateway: RequestGateway, metrics: Metrics) -> None:
        self._api, self._access, self._gateway, self._metrics = api, access, gateway, metrics

    def read_head(self, cycle: RequestResponseCycle) -> Head | None:
        """Return the head of a small and plain request that may be made; None of another.

        What it spends of a quota is spent for the usual way too.
        """
        scope = cycle.scope
        if scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
            return None
        known: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in _READ:
                known[name] = value.decode("latin-1")
            elif not (name in _PLAIN or (name == MIN_SEQUENCE and self._is_fresh(value.decode("latin-1")))):
                return None
        length = known.get(b"content-length", "")
        most = min(_LARGEST_BODY, self._gateway.max_bytes)
        if not length.isdecimal() or int(length) > most or cycle.flow.write_paused:
            return None
        try:
            self._access.check(_scope(cycle), infer)
        except SuperposedError:
            return None  # the usual way refuses it before its body is read
        tensors = TENSORS_MEDIA_TYPE in known.get(b"accept", "")
        return Head(known.get(b"content-type"), known.get(_HEAD_LENGTH), tensors)

    def _is_fresh(self, token: str) -> bool:
        try:
            return self._gateway.freshness.is_fresh(token)
        except SuperposedError:
            return False

    def begin(self, cycle: RequestResponseCycle, head: Head, hand_on: Callable[[RequestResponseCycle], None]) -> bool:
        """Let a request with its whole body wait for the event loop's next batch.

        Return False if it is to take the usual way; later, `hand_on` has it take the usual way after all.
        """
        runtime: Runtime = self._api.state.runtime
        scope = _scope(cycle)
        began = perf_counter()
        try:
            body = codec.read_body(InferBody, bytes(cycle.body), head.content_type, head.head_length)
            rows = RowBatch(body.context, body.contexts, body.rows, body.originals)
            encoded = rows.originals is not None
            if encoded or body.context == AUTO or not runtime.engine.answers_soon(rows):
                return False
        except Exception:  # noqa: BLE001 - the usual way meets it again, and says what it is
            return False
        principal = principal_of(scope)
        reply = _Reply(self, cycle, hand_on, head, body, began)
        try:
            runtime.admit(rows, principal)
            caller = RequestMetadata(principal.author or ANYONE)
            reply.timer = runtime.engine.infer_soon(rows, reply, caller, inline=True)
        except Exception as error:  # noqa: BLE001 - the usual way says what it is, and spends no quota again
            scope[REFUSAL] = error
            return False
        return True

    def write(self, reply: "_Reply", answer: InferenceResult) -> None:
        """Write the answer to the connection, and count the request."""
        cycle, body = reply.cycle, reply.body
        values = codec.render_answer(answer, body.return_, body.k)
        kind, extra = b"application/json", b""
        if reply.head.tensors:
            content, length = codec.dump_tensors(values)
            kind, extra = TENSORS_MEDIA_TYPE.encode(), b"%s: %d\r\n" % (_HEAD_LENGTH, length)
        else:
            content = codec.dump(values)
        lines = [STATUS_LINE[200], *(b"%s: %s\r\n" % pair for pair in cycle.default_headers)]
        lines += [b"content-length: %d\r\ncontent-type: %s\r\n" % (len(content), kind), extra]
        lines += [b"x-request-id: %s\r\n" % self._gateway.identifier(_scope(cycle)).encode()]
        lines += [b"%s: %s\r\n" % (SEQUENCE, self._gateway.freshness.token().encode())]
        lines += [b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", content]
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(b"".join(lines))
        if not cycle.keep_alive:
            cycle.transport.close()
        self._metrics.request("POST", PATH, 200, perf_counter() - reply.began)
        cycle.on_response()


def _scope(cycle: RequestResponseCycle) -> Scope:
    return cast("Scope", cycle.scope)


@dataclass(eq=False, slots=True)
class _Reply:
    """Gets the answer of one request, as a future would."""

    direct: DirectInference
    cycle: RequestResponseCycle
    hand_on: Callable[[RequestResponseCycle], None]
    head: Head
    body: InferBody
    began: float
    finished: bool = False
    timer: asyncio.TimerHandle | None = None

    def done(self) -> bool:
        """Return True once it was answered, or its client has left."""
        return self.finished or self.cycle.disconnected

    def set_result(self, answer: InferenceResult) -> None:
        """Write the answer."""
        try:
            self.direct.write(self, answer)
        except Exception as error:  # noqa: BLE001 - the usual way says what it is
            self.set_exception(error)
        else:
            self._finish()

    def set_exception(self, error: Exception) -> None:
        """Have the usual way say what is wrong."""
        self._finish()
        _scope(self.cycle)[REFUSAL] = error
        self.hand_on(self.cycle)

    def _finish(self) -> None:
        self.finished = True
        if self.timer is not None:
            self.timer.cancel()
