"""Which of a store's servers a request goes to, and how new its answer must be."""

from typing import Any
from urllib.parse import unquote

from superposed_client._core import Request, Response

_MOST_MOVES = 3


class Servers:
    """The leader, once a follower has named it, and the newest record that this client has seen."""

    def __init__(self) -> None:
        self._leader = self._token = ""
        self._moves = 0

    def arguments(self, request: Request) -> dict[str, Any]:
        """Return httpx's arguments: a change goes to the leader, where it is known; a read says how new it must be."""
        known = request.arguments()
        if request.key is not None:
            return known | {"url": self._leader + request.path}
        newest = {"X-Min-Sequence": self._token} if self._token else {}
        return known | {"headers": known["headers"] | newest}

    def moved(self, request: Request, response: Response) -> bool:
        """Take notice of an answer; return True if it names another server, which is to be asked."""
        if _newer(token := response.headers.get("x-sequence", ""), self._token):
            self._token = token
        location = response.headers.get("location", "")
        if response.status != 421 or not location:
            self._moves = 0
            return False
        self._leader, self._moves = location.removesuffix(unquote(request.path)), self._moves + 1
        return self._moves % _MOST_MOVES > 0

    def answered(self, response: Response) -> Response:
        """Return the last answer to a request; a record that it misses may be lost, and is not asked for again."""
        if response.status == 409 and b":not-fresh" in response.body:
            self._token = ""
        return response

    def failed(self) -> None:
        """Forget the leader: it was not reached."""
        self._leader = ""


def _newer(token: str, than: str) -> bool:
    return token != "" and _place(token) > _place(than)


def _place(token: str) -> tuple[int, ...]:
    return tuple(int(part) for part in token.split(".")[1:] if part.isdecimal())
