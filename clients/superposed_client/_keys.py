"""`client.keys`: the server's API keys, for a client whose own key has scope admin."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypedDict, Unpack
from urllib.parse import quote

from superposed_client._calls import Async, Sync, method
from superposed_client._core import Operation, Request, parse, parse_list, refuse_errors
from superposed_client._shown import Listed
from superposed_client.models import ApiKey, NewApiKey

KeyScope: TypeAlias = Literal["monitor", "infer", "update", "replicate", "admin"]


class Quotas(TypedDict, total=False):
    """Quotas of a key for each second; without one, the server's settings hold, and 0 is no quota."""

    requests_per_second: float
    rows_per_second: float
    updates_per_second: float


class _KeyCalls:
    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run

    @method
    def create(
        self,
        scope: KeyScope,
        *,
        name: str = "",
        tasks: str = "*",
        groups: str = "",
        expires: float | None = None,
        **quotas: Unpack[Quotas],
    ) -> Operation[NewApiKey]:
        """Make a key; the answer shows it for the only time. Never sent twice by itself.

        Args:
            scope: `monitor` (metrics), `infer`, `update` (infer, and learn), `replicate` (follow) or `admin`.
            name: Free text.
            tasks: A pattern of task keys that it may name: `*` and `?`.
            groups: A pattern of groups that its tasks may join, beside those that `tasks` matches.
            expires: Unix seconds; None for never.
            quotas: `requests_per_second`, `rows_per_second`, `updates_per_second`.
        """
        body = {"scope": scope, "name": name, "tasks": tasks, "groups": groups, "expires": expires, **quotas}
        return parse(NewApiKey, (yield Request("POST", "/v1/keys", body, retry=False)))

    @method
    def list(self) -> Operation[Listed[ApiKey]]:
        """Return every key, the revoked ones too; never a secret."""
        return parse_list(ApiKey, (yield Request("GET", "/v1/keys")))

    @method
    def revoke(self, identifier: str) -> Operation[None]:
        """End a key at once; what it did stays on record under its id."""
        refuse_errors((yield Request("DELETE", f"/v1/keys/{quote(identifier, safe='')}")))

    @method
    def rotate(self, identifier: str) -> Operation[NewApiKey]:
        """Give a key a new secret; the old one is no good from now on."""
        return parse(NewApiKey, (yield Request("POST", f"/v1/keys/{quote(identifier, safe='')}/rotate", retry=False)))


class Keys(_KeyCalls, Sync):
    """API keys, by id. Made by `Client`."""


class AsyncKeys(_KeyCalls, Async):
    """API keys, by id. Made by `AsyncClient`; see `Keys`."""
