"""The choice of a store's server for a request, and the newest records that the client has seen."""

from typing import Any
from urllib.parse import unquote

import httpx

from superposed_client._core import Request


class Servers:
    """The leader, once a follower has named it, and the newest record of each epoch that this client has seen."""

    def __init__(self) -> None:
        self._leader = ""
        self._tokens: dict[str, str] = {}

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
        epoch, _, sequence = (token := response.headers.get("x-sequence", "")).rpartition(".")
        newer = sequence.isdecimal() and int(sequence) >= int(self._tokens.get(epoch, "0").rpartition(".")[2])
        if newer and response.status_code < 400:
            self._tokens = {epoch: token}  # a server that answers knows every record that was asked for
        if _is_old(response) and _changes(request):
            self._leader = ""
        location = response.headers.get("location", "")
        if response.status_code != 421 or not location:
            return False
        self._leader = location.removesuffix(unquote(request.path))
        return True

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
