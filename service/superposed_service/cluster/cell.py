"""A cell as the ingress sees it: the servers of one store, and which of them answers a request."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import orjson
import yarl

from superposed_service.errors import NotReady, ServiceUnavailable

# Headers of one connection: they are not sent on. The host is: a cell tells by it what comes from another site.
CONNECTION = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive", "expect", "te", "upgrade"})
TOKEN, MIN_TOKEN = "x-sequence", "x-min-sequence"
_PATIENCE_S, _FRESH_S, _PAUSE_S, _LOOK_S = 20.0, 3.0, 0.1, 1.0
_ASKING = frozenset({"/v1/infer", "/v1/evaluate", "/v1/locate", "/v2/repository/index"})
_FORM = frozenset({"content-type", "content-encoding", "inference-header-content-length", "accept"})
_SAFE, _STALE = "/:(),^@!$&'*+;=~", b":not-fresh"  # in a path; of a server that is behind
LOST = (aiohttp.ClientError, TimeoutError)  # of a request without an answer
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=1.0, sock_read=120.0)
_LOOK_TIMEOUT = aiohttp.ClientTimeout(total=_LOOK_S)
# Problems of one server that another one of the cell may not have.
_PASSING = (_STALE, b":not-ready", b":too-few-followers")


@dataclass(frozen=True)
class Call:
    """A request to a cell: `path` as it came, without its query; names of headers in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def reads(self) -> bool:
        """True if it changes nothing, and so a follower may answer it."""
        return self.method == "GET" or self.path in _ASKING or (self.path[:4] == "/v2/" and self.path[-6:] == "/infer")

    @property
    def is_repeatable(self) -> bool:
        """True if it may be sent again though it may have been worked on."""
        return self.reads or "idempotency-key" in self.headers

    def asking(self, path: str) -> "Call":
        """Return a GET in the name of the same client."""
        kept = {name: value for name, value in self.headers.items() if name in {"authorization", MIN_TOKEN}}
        return Call("GET", path, headers=kept)

    def with_json(self, body: bytes, path: str = "", **headers: str) -> "Call":
        """Return the request with another body, of JSON, and perhaps another path."""
        kept = {name: value for name, value in self.headers.items() if name not in _FORM}
        known = kept | {"content-type": "application/json"} | headers
        return replace(self, path=path or self.path, body=body, headers=known)


@dataclass(frozen=True)
class Answer:
    """A server's answer; names of headers in any case."""

    status_code: int
    headers: MutableMapping[str, str]
    content: bytes = b""

    @property
    def is_error(self) -> bool:
        """True for a problem of the client or the server."""
        return self.status_code >= 400

    def json(self) -> Any:
        """Return the values of a body of JSON."""
        return orjson.loads(self.content)


async def read(response: aiohttp.ClientResponse) -> Answer:
    """Return an answer with its body."""
    return Answer(response.status, response.headers.copy(), await response.read())


def new_session() -> aiohttp.ClientSession:
    """Return connections to servers, of the event loop that runs; answers come as they were sent, cookies too."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1024),
        timeout=_TIMEOUT,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        read_bufsize=2**20,
    )


class Cell:
    """The servers of one store, by their URLs; which of them leads is found out. On one event loop only.

    `name` is what the cell is called, and `session` gives the connections.
    """

    def __init__(self, name: str, urls: Sequence[str], session: Callable[[], aiohttp.ClientSession]) -> None:
        self.name, self.urls, self._session = name, list(urls), session
        self.lineage = ""  # of its store, once a server has answered
        self.leader = ""
        self._turns = itertools.count()

    async def send(self, call: Call, patience_s: float = _PATIENCE_S) -> Answer:
        """Return the answer of a server that can give one; while there is none, try again.

        Raise `ServiceUnavailable` where no server was reached, or one was lost that may have made the change.
        """
        began, response, problem = time.monotonic(), None, "no server leads"
        while True:
            if url := await self._url_for(call):
                try:
                    response = await read(await self._begin(url, call))
                except LOST as error:
                    response, problem = None, f"{type(error).__name__} at {url}"
                    self._lost(error, call, problem)
                else:
                    if self._is_settled(response, call):
                        return response
            stale = response is not None and _STALE in response.content
            if time.monotonic() > began + (min(patience_s, _FRESH_S) if stale else patience_s):
                if response is not None:
                    return response
                raise NotReady(f"no server of cell {self.name} answers", received=problem)
            await asyncio.sleep(_PAUSE_S)

    async def stream(self, call: Call) -> aiohttp.ClientResponse:
        """Return an answer whose body has not been read yet."""
        return await self._begin(await self._url_for(call) or self.urls[0], call)

    async def _url_for(self, call: Call) -> str:
        """Return the leader; where a request that reads says how new the answer must be, each server in turn."""
        if not self.leader:
            await self.find_leader()
        if self.urls and call.reads and (MIN_TOKEN in call.headers or not self.leader):
            return self.urls[next(self._turns) % len(self.urls)]
        return self.leader

    async def find_leader(self) -> str:
        """Ask all servers which of them leads; return its URL, or an empty text."""
        found = zip(await asyncio.gather(*map(self._health, self.urls)), self.urls, strict=True)
        leading = [(one["epoch"], url) for one, url in found if one.get("role") == "leader"]
        self.leader = max(leading, default=(0, ""))[1]
        return self.leader

    async def _health(self, url: str) -> dict[str, Any]:
        try:
            response = await read(await self._session().get(f"{url}/health/ready", timeout=_LOOK_TIMEOUT))
        except LOST:
            return {}
        self._note_lineage(response)
        health: dict[str, Any] = {} if response.is_error else response.json()
        return health

    def _note_lineage(self, response: Answer) -> None:
        self.lineage = response.headers.get(TOKEN, "").partition(".")[0] or self.lineage

    async def _begin(self, url: str, call: Call) -> aiohttp.ClientResponse:
        headers = {name: value for name, value in call.headers.items() if name not in CONNECTION}
        tokens = headers.pop(MIN_TOKEN, "")
        if wanted := ",".join(one for one in tokens.split(",") if one.startswith(f"{self.lineage}.")):
            headers[MIN_TOKEN] = wanted
        target = url + quote(call.path, safe=_SAFE) + (f"?{call.query}" if call.query else "")
        where, given = yarl.URL(target, encoded=True), headers | {"accept-encoding": "identity"}
        data = call.body or None
        return await self._session().request(call.method, where, headers=given, data=data, allow_redirects=False)

    def _lost(self, error: Exception, call: Call, problem: str) -> None:
        self.leader = ""
        if not (call.is_repeatable or isinstance(error, _NOT_SENT)):
            text = "the server was lost while it worked on the change, which may have been made"
            again = "with an Idempotency-Key a change is sent again, and made once"
            raise ServiceUnavailable(f"{text}: {again}", received=problem) from None

    def _is_settled(self, response: Answer, call: Call) -> bool:
        """Take notice of an answer; return False where another server is to be asked."""
        self._note_lineage(response)
        response.headers["x-cell"] = self.name
        if response.status_code == HTTPStatus.MISDIRECTED_REQUEST:
            self.leader = response.headers.get("location", "").removesuffix(unquote(call.path))
            return False
        passing = response.is_error and call.is_repeatable and any(slug in response.content for slug in _PASSING)
        if passing and not call.reads:
            self.leader = ""
        return not passing
