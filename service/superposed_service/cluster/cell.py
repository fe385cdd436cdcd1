"""A cell as the ingress sees it: the servers of one store, and which of them answers a request."""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote

import httpx

from superposed_service.errors import NotReady, ServiceUnavailable

# Headers of one connection: they are not sent on. The host is: a cell tells by it what comes from another site.
CONNECTION = frozenset({"connection", "content-length", "transfer-encoding", "keep-alive", "expect", "te", "upgrade"})
TOKEN, MIN_TOKEN = "x-sequence", "x-min-sequence"
_PATIENCE_S, _FRESH_S, _PAUSE_S, _LOOK_S = 20.0, 3.0, 0.1, 1.0
_ASKING = frozenset({"/v1/infer", "/v1/evaluate", "/v1/locate", "/v2/repository/index"})
_FORM = frozenset({"content-type", "content-encoding", "inference-header-content-length", "accept"})
_SAFE, _STALE = "/:(),^@!$&'*+;=~", b":not-fresh"  # in a path; of a server that is behind
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


class Cell:
    """The servers of one store, by their URLs; which of them leads is found out. On one event loop only.

    `name` is what the cell is called, and `client` sends the requests.
    """

    def __init__(self, name: str, urls: Sequence[str], client: httpx.AsyncClient) -> None:
        self.name, self.urls, self._client = name, list(urls), client
        self.lineage = ""  # of its store, once a server has answered
        self.leader = ""
        self._turns = itertools.count()

    async def send(self, call: Call, patience_s: float = _PATIENCE_S) -> httpx.Response:
        """Return the answer of a server that can give one; while there is none, try again.

        Raise `ServiceUnavailable` where no server was reached, or one was lost that may have made the change.
        """
        began, response, problem = time.monotonic(), None, "no server leads"
        while True:
            if url := await self._url_for(call):
                try:
                    response = await self._client.send(self._request(url, call))
                except httpx.TransportError as error:
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

    async def stream(self, call: Call) -> httpx.Response:
        """Return an answer whose body has not been read yet."""
        url = await self._url_for(call) or self.urls[0]
        return await self._client.send(self._request(url, call), stream=True)

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
            response = await self._client.get(f"{url}/health/ready", timeout=_LOOK_S)
        except httpx.TransportError:
            return {}
        self._note_lineage(response)
        health: dict[str, Any] = response.json() if response.is_success else {}
        return health

    def _note_lineage(self, response: httpx.Response) -> None:
        self.lineage = response.headers.get(TOKEN, "").partition(".")[0] or self.lineage

    def _request(self, url: str, call: Call) -> httpx.Request:
        headers = {name: value for name, value in call.headers.items() if name not in CONNECTION}
        tokens = headers.pop(MIN_TOKEN, "")
        if wanted := ",".join(one for one in tokens.split(",") if one.startswith(f"{self.lineage}.")):
            headers[MIN_TOKEN] = wanted
        target = url + quote(call.path, safe=_SAFE) + (f"?{call.query}" if call.query else "")
        given = {"accept-encoding": "identity"} | headers
        return self._client.build_request(call.method, target, headers=given, content=call.body)

    def _lost(self, error: httpx.TransportError, call: Call, problem: str) -> None:
        self.leader = ""
        if not (call.is_repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
            text = "the server was lost while it worked on the change, which may have been made"
            again = "with an Idempotency-Key a change is sent again, and made once"
            raise ServiceUnavailable(f"{text}: {again}", received=problem) from None

    def _is_settled(self, response: httpx.Response, call: Call) -> bool:
        """Take notice of an answer; return False where another server is to be asked."""
        self._note_lineage(response)
        response.headers["x-cell"] = self.name
        if response.status_code == httpx.codes.MISDIRECTED_REQUEST:
            self.leader = response.headers.get("location", "").removesuffix(unquote(call.path))
            return False
        passing = response.is_error and call.is_repeatable and any(slug in response.content for slug in _PASSING)
        if passing and not call.reads:
            self.leader = ""
        return not passing
