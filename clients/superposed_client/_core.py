"""The sans-IO core: what a request is, what an answer means, when to try again, and which server to ask.

An operation is a generator that yields requests, is sent their responses, and returns its result; the
synchronous and the asynchronous client run the same operations and differ only in how they send.
"""

import json
import os
import random
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError

from superposed_client._arrays import plain_value
from superposed_client._errors import ERRORS, ApiError, UnexpectedAnswer
from superposed_client._shown import Listed

MEDIA_TYPE = "application/vnd.superposed.tensors"
HEAD_LENGTH = "Inference-Header-Content-Length"

_DATATYPES = {
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DATATYPES.items()}
_NARROWER = {"float64": ("<f4",), "int64": ("u1", "<i2", "<i4")}


def as_tensor(values: Any) -> NDArray[Any] | None:
    """Return rows or numbers as an array in the narrowest dtype that holds all of them exactly.

    None for what is no rectangle of numbers: the server then says what is wrong with it.
    """
    if isinstance(values, list | tuple) and any(isinstance(value, bool) for value in values):
        return None  # among numbers they would become some
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return None
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype not in _NAMES or not array.size:
        return None
    for code in _NARROWER.get(array.dtype.name, ()):
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = array.astype(code)
        if np.array_equal(narrow, array):
            return narrow
    return array


def dump(body: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return the bytes of a body whose arrays are sent as tensors, and how long its JSON head is."""
    arrays = {name: value for name, value in body.items() if isinstance(value, np.ndarray)}
    head = {
        name: {"datatype": _NAMES[arrays[name].dtype], "shape": arrays[name].shape} if name in arrays else value
        for name, value in body.items()
    }
    text = json.dumps(head, separators=(",", ":"), default=plain_value).encode()
    return b"".join([text, *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]), len(text)


def read_tensors(body: bytes, head_length: int) -> dict[str, Any]:
    """Return the inverse of `dump`, tensors as nested lists; raise `ValueError` for other bytes."""
    values: dict[str, Any] = json.loads(body[:head_length])
    place = head_length
    for name, value in values.items():
        if isinstance(value, dict) and "datatype" in value:
            dtype = np.dtype(_DATATYPES[value["datatype"]])
            count = int(np.prod(value["shape"]))
            array = np.frombuffer(body, dtype=dtype, count=count, offset=place)
            values[name] = array.reshape(value["shape"]).tolist()
            place += array.nbytes
    return values


T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Request:
    """One HTTP request, below the base URL.

    A numpy array among the JSON values of `body` is sent as a binary tensor; `lines` is a body of JSON lines. With
    an idempotency key (`key`) a change is applied once, also if it is sent again; it is sent again only if `retry`
    allows that.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    key: str | None = None
    retry: bool = True
    lines: bytes | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that httpx's `request` takes, the body encoded."""
        headers = {} if self.key is None else {"Idempotency-Key": self.key}
        content = self.lines
        if content is not None:
            headers |= {"Content-Type": "application/x-ndjson"}
        elif self.body is not None:
            # NaN is let through on purpose: it is the server that says what is wrong with it
            content, head_length = dump(self.body)
            kinds = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE, HEAD_LENGTH: str(head_length)}
            headers |= {"Content-Type": "application/json"} if len(content) == head_length else kinds
        sent = {"content": content, "headers": headers, "params": dict(self.params)}
        return {"method": self.method, "url": self.path} | sent


def credentials(api_key: str | None) -> dict[str, str]:
    """Return the headers that carry an API key: the one given, or that of the environment, or none."""
    key = os.environ.get("SUPERPOSED_API_KEY") if api_key is None else api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


def changing(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    params: Mapping[str, str | int] | None = None,
) -> Request:
    """Return a request that changes something, with an idempotency key: its own, or a new one."""
    return Request(method, path, body, params or {}, key=key or uuid.uuid4().hex)


Operation: TypeAlias = Generator[Request, httpx.Response, T]


@dataclass(frozen=True)
class RetryPolicy:
    """Policy for sending a request again, with growing, jittered pauses.

    On 429 and 503, on connection errors, while an earlier copy of the request is being worked on, and where the
    server's store is not as new yet as what the client has seen. Changes carry an idempotency key.

    Args:
        retries: How often at most.
        first_pause_s: Mean of the first pause; each further one doubles.
        longest_pause_s: No pause of its own is longer.
        draw: Gives the jitter, a number from 0 to 1.
        longest_wait_s: No pause that the server asks for (`Retry-After`) is longer.
    """

    retries: int = 3
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    draw: Callable[[], float] = random.random
    longest_wait_s: float = 60.0

    def pauses(self, request: Request) -> Iterator[float]:
        """Return the pauses before each further try, in seconds."""
        if not request.retry:
            return
        for attempt in range(self.retries):
            yield min(self.longest_pause_s, self.first_pause_s * 2**attempt * (0.5 + self.draw()))

    @staticmethod
    def again(response: httpx.Response) -> bool:
        """Return True if a response asks for another attempt."""
        soon = any(slug in response.content for slug in (b":idempotency-in-flight", b":not-fresh"))
        return response.status_code in {429, 503} or (response.status_code == 409 and soon)

    def after(self, response: httpx.Response, pause_s: float) -> float:
        """Return the pause before the next attempt: at least the `Retry-After`, up to the longest wait."""
        asked = response.headers.get("retry-after", "")
        return max(pause_s, min(float(asked), self.longest_wait_s)) if asked.isdecimal() else pause_s


def refuse_errors(response: httpx.Response) -> httpx.Response:
    """Return a good response; raise the problem of another.

    Raises:
        ApiError: The class of the problem's type.
        UnexpectedAnswer: Neither a good answer nor a problem document.
    """
    if response.is_success:
        return response
    try:
        problem = response.json()
        slug = str(problem["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError):
        text = response.content[:200].decode(errors="replace")
        raise UnexpectedAnswer(f"status {response.status_code} without a problem document: {text!r}") from None
    raise ERRORS.get(slug, ApiError)(problem, response.status_code, response.headers.get("x-request-id"))


def parse(model: type[M], response: httpx.Response) -> M:
    """Read an answer; raises as `refuse_errors`, and `UnexpectedAnswer` where it is not this API's."""
    body = refuse_errors(response).content
    head_length = response.headers.get(HEAD_LENGTH)
    try:
        if head_length is not None:
            return model.model_validate(read_tensors(body, int(head_length)))
        return model.model_validate_json(body)
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedAnswer(f"not a {model.__name__}: {error}") from error


def parse_list(model: type[M], response: httpx.Response) -> Listed[M]:
    """Read an answer that is a list; raises as `parse`."""
    body = refuse_errors(response).content
    try:
        return Listed(TypeAdapter(list[model]).validate_json(body))  # type: ignore[valid-type]  # known at run time
    except ValidationError as error:
        raise UnexpectedAnswer(f"not a list of {model.__name__}: {error}") from error


class Servers:
    """The leader, once a follower has named it, and the newest record of each store that this client has seen."""

    def __init__(self) -> None:
        self._leader = ""
        self._tokens: dict[str, str] = {}  # by lineage

    def arguments(self, request: Request) -> dict[str, Any]:
        """Return httpx's arguments: how new the server must be, and of a change the leader, where it is known.

        A leader that is cut off from its successor does not know what the client has seen, and takes no change.
        """
        known = request.arguments()
        newest = {"X-Min-Sequence": ",".join(self._tokens.values())} if self._tokens else {}
        url = self._leader + request.path if _changes(request) else request.path
        return known | {"url": url, "headers": known["headers"] | newest}

    def moved(self, request: Request, response: httpx.Response) -> bool:
        """Take notice of an answer; return True if it names another server, which is to be asked."""
        if response.status_code < 400:
            for token in response.headers.get("x-sequence", "").split(","):
                self._saw(token)
        if _is_old(response) and _changes(request):
            self._leader = ""
        location = response.headers.get("location", "")
        if response.status_code != 421 or not location:
            return False
        self._leader = location.removesuffix(unquote(request.path))
        return True

    def _saw(self, token: str) -> None:
        """Keep the token of an answer: a server that answers knows every record of its store that was asked for."""
        lineage, (epoch, _, sequence) = token.partition(".")[0], token.rpartition(".")
        known_epoch, _, known = self._tokens.get(lineage, "").rpartition(".")
        if sequence.isdecimal() and (epoch != known_epoch or int(sequence) >= int(known)):
            self._tokens[lineage] = token

    def answered(self, response: httpx.Response) -> httpx.Response:
        """Return the last answer to a request; a record that it misses may be lost, and is not asked for again."""
        if _is_old(response):
            self._tokens = {}
        return response

    def failed(self) -> None:
        """Forget the leader: it was not reached."""
        self._leader = ""


def _is_old(response: httpx.Response) -> bool:
    return response.status_code == 409 and b":not-fresh" in response.content


def _changes(request: Request) -> bool:
    """Return True if only a leader answers the request; a snapshot is each server's own."""
    api_key = request.path.startswith("/v1/keys") and request.method != "GET"
    return api_key or (request.key is not None and request.path != "/v1/snapshots")
