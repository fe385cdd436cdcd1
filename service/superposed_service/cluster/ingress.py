"""The ingress: one address for many cells. It speaks the same HTTP API, and holds nothing that it cannot ask for again.

A request that names tasks goes to their cell; an inference whose rows are of several cells is split and joined; what
is about a whole store goes to all cells, or to the one that the header `X-Cell` names. Of `POST /v1/stream` each line
is a request of its own to its cell, answered in the order of lines.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from superposed.contexts.expression import Task
from superposed.errors import SuperposedError
from superposed_service.api.middleware.gateway import too_large
from superposed_service.api.problems import problem_document, problem_response
from superposed_service.api.tensors import HEAD_LENGTH, split
from superposed_service.api.v1 import codec
from superposed_service.api.v1.line_stream import Answers, LinesResponse, answered, dump_line, split_lines
from superposed_service.api.v1.schemas import InferBody, StreamLine
from superposed_service.api.v1.task_search import AUTO
from superposed_service.api.v2 import messages
from superposed_service.cluster import merging, splitting
from superposed_service.cluster.cell import LOST, TOKEN, Call, Cell, new_session, read
from superposed_service.cluster.splitting import ROWS, Split
from superposed_service.cluster.task_map import TaskMap, keys_in
from superposed_service.errors import InvalidRequest, NotReady
from superposed_service.observability.request_ids import STREAM

CELL = "x-cell"
_MODEL = re.compile(
    r"/v2/(?:repository/)?models/(.+?)(?:/versions/[^/]+)?(?:/(?:ready|config|stats|infer|load|unload))?"
)
_TASK = re.compile(r"/v1/tasks/(.+?)(?:/(?:evaluations|data))?")
_AGAIN_S = 0.1
Answering = Callable[[Call], Awaitable[Response]]
Handler = Callable[["Ingress", Call], Awaitable[Response]]
Merge = Callable[[merging.Answers], Response]


def answer_lines(send: Answering, call: Call, body: AsyncIterable[bytes], most: int) -> AsyncIterator[bytes]:
    """Yield the answer of each line of a body, in order; the lines of one stream are worked on in order too."""
    turn = asyncio.Lock()

    async def read(begun: Answers) -> None:
        async for line in split_lines(body, most):
            await begun.put(asyncio.create_task(_answer(send, call, line, turn)))

    return answered(read)


async def _answer(send: Answering, call: Call, data: bytes, turn: asyncio.Lock) -> bytes:
    line: StreamLine | None = None
    try:
        line, values = codec.read_body(StreamLine, data, None), codec.read_object(data)
        kind = "infer" if line.update is None else "update"
        key = {"idempotency-key": line.id} if line.id and kind == "update" else {}
        one = Call("POST", STREAM, headers=call.headers).with_json(codec.dump(values[kind]), f"/v1/{kind}", **key)
        async with turn:  # a lock is taken in the order in which it is asked for
            while b":overloaded" in (response := await send(one)).body and response.status_code == 503:
                await asyncio.sleep(_AGAIN_S)
        told = "answer" if response.status_code < 400 else "problem"
        return dump_line(line, **{told: orjson.loads(response.body)})
    except SuperposedError as error:
        return dump_line(line, problem=problem_document(error, STREAM))


class Ingress:
    """An ASGI application in front of cells, by their names: the URLs of each one's servers.

    `patterns` are cells of new tasks by patterns of their groups or keys; others are spread over all cells. A
    request's body has `most_bytes` at most.
    """

    def __init__(self, cells: Mapping[str, Sequence[str]], patterns: Mapping[str, str], most_bytes: int) -> None:
        self._session = cache(new_session)  # made by the first request, on the event loop
        self.cells = {name: Cell(name, urls, self._session) for name, urls in cells.items()}
        self.tasks = TaskMap(self.cells, patterns)
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            await self._session().close()
            return
        request = Request(scope, receive)
        try:
            response = await self._response(request)
        except SuperposedError as error:
            response = problem_response(error, request.url.path)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method  # the server sends no body then
        call = Call(method, request.scope["path"], request.url.query, dict(request.headers))
        if call.path == STREAM:
            return LinesResponse(answer_lines(self.answer, call, request.stream(), self._most_bytes))
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._most_bytes:
                raise too_large(len(body), self._most_bytes)
        return await self.answer(replace(call, body=bytes(body)))

    async def answer(self, call: Call) -> Response:
        """Return the answer to a request; where a task has gone from the cell that it was in, ask once more."""
        if name := call.headers.get(CELL):
            if name not in self.cells:
                raise InvalidRequest("X-Cell: no such cell", expected=f"one of {sorted(self.cells)}", received=name)
            return merging.passed_on(await self.cells[name].send(call))
        for methods, path, handler in _ROUTES:
            if call.method in methods and path.fullmatch(call.path):
                return await handler(self, call)
        return await self._any(call)

    async def _any(self, call: Call) -> Response:
        return merging.passed_on(await next(iter(self.cells.values())).send(call))

    async def to_cell_of(self, call: Call, keys: Iterable[str]) -> Response:
        """Send a request to the cell of the tasks that it names."""
        keys = list(keys)
        answer = await (await self.tasks.cell_of(keys, call)).send(call)
        if answer.status_code == HTTPStatus.NOT_FOUND and self.tasks.forget(keys):
            answer = await (await self.tasks.cell_of(keys, call)).send(call)
        if call.method == "DELETE":
            self.tasks.forget(keys)
        return merging.passed_on(answer)

    async def ask_all(self, call: Call, merge: Merge, *, partly: bool = False) -> Response:
        """Send a request to all cells, and merge their answers; a refusal is the answer, if not `partly` of all."""
        answers = await asyncio.gather(*(one.send(call) for one in self.cells.values()))
        found = dict(zip(self.cells, answers, strict=True))
        good = {name: one for name, one in found.items() if not one.is_error}
        if len(good) == len(found) or (partly and good):
            return merge(good)
        return merging.passed_on(next(one for one in found.values() if one.is_error))

    async def register(self, call: Call) -> Response:
        """Register a task: where it is, in the cell of its group or composition, or in a chosen one."""
        body = self._head(call)
        key, group = str(body.get("key")), body.get("group")
        named = [str(group)] if group else keys_in([body["composition"]] if body.get("composition") else [])
        cell = await self.tasks.find(key, call)
        if cell is None:
            cell = await self.tasks.cell_of(named, call) if named else self.tasks.home(key)
        return merging.passed_on(await cell.send(call))

    async def rows(self, call: Call) -> Response:
        """Answer rows: of one cell as they came, of several cells in parts."""
        head = self._head(call)
        contexts = head.get("contexts")
        if head.get("context") == AUTO and call.path == "/v1/infer":
            return await self._by_search(call)
        named = contexts if isinstance(contexts, list) else [head.get("context")]
        if call.path != "/v1/infer" or not isinstance(contexts, list):
            return await self.to_cell_of(call, keys_in(named))
        return await self._in_parts(call, contexts, lambda: splitting.split_rows(call, self._whole(call)))

    async def _in_parts(self, call: Call, contexts: Sequence[Any], split: Callable[[], Split]) -> Response:
        """Send each cell its part of a request, and join the answers; to one cell it goes as it came."""
        keys, distinct = keys_in(contexts), {str(context): context for context in contexts}
        for _ in range(2):  # a task may have been moved meanwhile
            cells = await self.tasks.cells_of(keys, call)
            if len({cell.name for cell in cells.values()}) < 2:
                return await self.to_cell_of(call, keys)
            own = {text: await self.tasks.cell_of(keys_in([context]), call) for text, context in distinct.items()}
            places: dict[str, list[int]] = {}
            for place, context in enumerate(contexts):
                places.setdefault(own[str(context)].name, []).append(place)
            how = split()
            sent = (self.cells[cell].send(how.part(of)) for cell, of in places.items())
            found = dict(zip(places, await asyncio.gather(*sent), strict=True))
            refusal = next((one for one in found.values() if one.is_error), None)
            if refusal is None or refusal.status_code != HTTPStatus.NOT_FOUND or not self.tasks.forget(keys):
                break
        return how.join(found, places) if refusal is None else merging.passed_on(refusal)

    async def model_rows(self, call: Call) -> Response:
        """Answer a model's rows, which may have contexts of their own."""
        named = messages.objects(self._head(call), "inputs")
        if all(one.get("name") != messages.CONTEXT for one in named):
            return await self.of_path(call)
        contexts, split = splitting.split_tensors(call, self._plain(call), call.headers.get(HEAD_LENGTH))
        return await self._in_parts(call, contexts, lambda: split)

    async def interference(self, call: Call) -> Response:
        """Relate tasks, of one cell or of several."""
        keys = parse_qs(call.query).get("tasks", [""])[0].split(",")
        if keys == [""]:
            return await self._any(call)
        return await self._in_parts(call, keys, lambda: splitting.split_interference(call, keys))

    async def _by_search(self, call: Call) -> Response:
        """Answer rows under the context that they fit best, of all cells'."""
        whole = self._whole(call)
        asked = {name: whole[name] for name in ROWS if name in whole}
        found = await self.ask_all(call.with_json(codec.dump(asked), "/v1/locate"), merging.located, partly=True)
        if found.status_code != HTTPStatus.OK:
            return found
        best = orjson.loads(found.body)["scores"][0]
        one = await self.rows(call.with_json(codec.dump(whole | {"context": best["context"]})))
        if one.status_code == HTTPStatus.OK:
            tokens = {TOKEN: one.headers[TOKEN]}
            return Response(codec.dump(orjson.loads(one.body) | {"located": best}), 200, tokens, "application/json")
        return one

    async def locate(self, call: Call) -> Response:
        """Search all cells, or the one of the candidates."""
        head = self._head(call)
        given = head.get("candidates")
        named = given if isinstance(given, list) else [head["exponent_of"]] if head.get("exponent_of") else []
        if named:
            return await self.to_cell_of(call, keys_in(named))
        return await self.ask_all(call, merging.located, partly=True)

    async def list_tasks(self, call: Call) -> Response:
        """List the tasks of all cells."""
        limit = parse_qs(call.query).get("limit", ["100"])[0]
        most = int(limit) if limit.isdecimal() else 1
        return await self.ask_all(call, partial(merging.task_page, limit=most))

    async def of_path(self, call: Call) -> Response:
        """Send a request on whose path names a task or a context."""
        task, model = _TASK.fullmatch(call.path), _MODEL.fullmatch(call.path)
        return await self.to_cell_of(call, [Task.named(task[1]).key] if task else keys_in([model and model[1]]))

    async def of_query(self, call: Call) -> Response:
        """Send a request on whose query names a context."""
        contexts = [codec.read_context(one) for one in parse_qs(call.query).get("context", [])]
        return await self.to_cell_of(call, keys_in(contexts))

    async def of_source(self, call: Call) -> Response:
        """Send on what is about a task, an API key, or one cell's records."""
        body = self._head(call)
        source = str(body.get("source") or call.path.rpartition("/")[2])
        if call.path == "/v1/rollback":
            without = body.get("without")
            source = str(without.get("task") or "") if isinstance(without, dict) else ""
            if not source:
                return await self.of_one_cell(call)
        if source.startswith("key:"):
            return await self.ask_all(call, merging.first)
        return await self.to_cell_of(call, [source])

    async def of_one_cell(self, call: Call) -> Response:
        """Send on what is about one store; raise `InvalidRequest` where there are several, and none is named."""
        if len(self.cells) > 1:
            text = f"{call.path} is about one store, and there are several: say which with the header X-Cell"
            raise InvalidRequest(text, expected=f"X-Cell: one of {sorted(self.cells)}")
        return await self._any(call)

    async def change_keys(self, call: Call) -> Response:
        """Make, rotate or revoke an API key in all cells: the same one."""
        made = {"id": secrets.token_hex(6), "secret": secrets.token_urlsafe(32)}
        if call.method == "POST":
            call = call.with_json(codec.dump(self._head(call) | {"given": made}))
        return await self.ask_all(call, merging.first)

    async def ready(self, call: Call) -> Response:
        """Answer 200 where every cell has a leader."""
        for cell in self.cells.values():
            if not await cell.find_leader():
                raise NotReady(f"cell {cell.name} has no leader that is ready")
        return await self._any(call)

    async def events(self, call: Call) -> Response:
        """Stream the events of all cells; the id of one says how far each cell is."""
        seen = dict(pair.split("=", 1) for pair in call.headers.get("last-event-id", "").split(",") if "=" in pair)
        async with contextlib.AsyncExitStack() as stack:
            streams = {}
            for name, cell in self.cells.items():
                others = {one: text for one, text in call.headers.items() if one != "last-event-id"}
                own = {"last-event-id": seen[name]} if name in seen else {}
                answer = await cell.stream(replace(call, headers=others | own))
                stack.callback(answer.close)
                if not answer.ok:
                    return merging.passed_on(await read(answer))
                streams[name] = answer
            ending = stack.pop_all()
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_joined(streams, seen, ending), headers=headers, media_type="text/event-stream")

    def _plain(self, call: Call) -> bytes:
        """Return a request's body without its `Content-Encoding`."""
        encoding = call.headers.get("content-encoding", "")
        return codec.inflate(call.body, encoding, self._most_bytes) if encoding else call.body

    def _head(self, call: Call) -> dict[str, Any]:
        """Return a body's JSON, or the JSON before its tensors; an empty one for no body."""
        head, _ = split(self._plain(call), call.headers.get(HEAD_LENGTH))
        return codec.read_object(head) if head else {}

    def _whole(self, call: Call) -> dict[str, Any]:
        """Return the body of an inference, its tensors read; what is null is left out."""
        kind, length = call.headers.get("content-type"), call.headers.get(HEAD_LENGTH)
        body = codec.read_body(InferBody, self._plain(call), kind, length)
        given = body.model_dump(by_alias=True, exclude_unset=True)
        return {name: value for name, value in given.items() if value is not None}


async def _joined(
    streams: Mapping[str, aiohttp.ClientResponse], seen: dict[str, str], ending: contextlib.AsyncExitStack
) -> AsyncIterator[bytes]:
    """Yield the events of several streams as they come, until one of them ends."""
    lines: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(1024)

    async def follow(name: str, answer: aiohttp.ClientResponse) -> None:
        with contextlib.suppress(*LOST):
            event = ""
            async for line in answer.content:
                event += line.decode()
                if line == b"\n":
                    await lines.put((name, event))
                    event = ""
        await lines.put(None)

    async with ending:
        reading = [asyncio.create_task(follow(name, answer)) for name, answer in streams.items()]
        try:
            while (item := await lines.get()) is not None:
                name, text = item
                if (match := re.search(r"^id: (.+)$", text, re.MULTILINE)) is not None:
                    seen[name] = match[1]
                    text = text.replace(match[0], "id: " + ",".join(f"{one}={at}" for one, at in seen.items()))
                yield text.encode()
        finally:
            for task in reading:
                task.cancel()


def _all_cells(merge: Merge) -> Handler:
    return lambda ingress, call: ingress.ask_all(call, merge)


# By methods and path: what answers it. What stands in no row any cell answers: the console, docs, the description.
_ROUTES: Sequence[tuple[str, re.Pattern[str], Handler]] = [
    (methods, re.compile(path), handler)
    for methods, path, handler in (
        ("POST", "/v1/(infer|update|evaluate)", Ingress.rows),
        ("POST", "/v1/locate", Ingress.locate),
        ("GET", "/v1/tasks", Ingress.list_tasks),
        ("POST", "/v1/tasks", Ingress.register),
        ("GET", "/v2/models/stats", _all_cells(merging.statistics)),
        ("POST", "/v2/repository/index", _all_cells(merging.lists)),
        ("POST", "/v2/models/.+/infer", Ingress.model_rows),
        ("GET POST PATCH DELETE", f"{_TASK.pattern}|{_MODEL.pattern}", Ingress.of_path),
        ("GET", "/v1/model", Ingress.of_query),
        ("GET", "/v1/interference", Ingress.interference),
        ("GET", "/v1/events", Ingress.events),
        ("GET", "/v1/store", _all_cells(merging.store)),
        ("GET", "/v1/capacity", _all_cells(merging.fullest)),
        ("GET", "/metrics", lambda ingress, call: ingress.ask_all(call.asking(call.path), merging.metrics)),
        ("GET", "/v1/(quarantine|snapshots)", _all_cells(merging.lists)),
        ("POST", "/v1/(quarantine|rollback)", Ingress.of_source),
        ("DELETE", "/v1/quarantine/.+", Ingress.of_source),
        ("POST DELETE", "/v1/keys.*", Ingress.change_keys),
        ("GET", "/health/ready|/v2/health/ready", Ingress.ready),
        ("GET POST", "/v1/(snapshots|updates|consolidate|replication).*", Ingress.of_one_cell),
    )
]
