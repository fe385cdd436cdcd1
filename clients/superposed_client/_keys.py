"""`client.keys`: the server's API keys, for a client whose own key has scope admin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias, TypedDict, Unpack
from urllib.parse import quote

from superposed_client._core import Operation, Request, parse, parse_list, refuse_errors
from superposed_client._models import ApiKey, NewApiKey

__all__ = ["AsyncKeys", "KeyScope", "Keys", "Quotas"]

KeyScope: TypeAlias = Literal["monitor", "infer", "update", "admin"]


class Quotas(TypedDict, total=False):
    """Quotas of a key for each second; without one, the server's settings hold, and 0 is no quota."""

    requests_per_second: float
    rows_per_second: float
    updates_per_second: float


def _create(
    scope: KeyScope, name: str, tasks: str, expires: float | None, quotas: Quotas
) -> Operation[NewApiKey]:
    """Build the request `POST /v1/keys`; not sent again, as each time would make another key."""
    body = {"scope": scope, "name": name, "tasks": tasks, "expires": expires, **quotas}
    return parse(NewApiKey, (yield Request("POST", "/v1/keys", body, retry=False)))


def _list() -> Operation[list[ApiKey]]:
    """Build the request `GET /v1/keys`."""
    return parse_list(ApiKey, (yield Request("GET", "/v1/keys")))


def _revoke(identifier: str) -> Operation[None]:
    """Build the request `DELETE /v1/keys/{id}`."""
    refuse_errors((yield Request("DELETE", f"/v1/keys/{quote(identifier, safe='')}")))


def _rotate(identifier: str) -> Operation[NewApiKey]:
    """Build the request `POST /v1/keys/{id}/rotate`; not sent again, as it would replace the secret."""
    path = f"/v1/keys/{quote(identifier, safe='')}/rotate"
    return parse(NewApiKey, (yield Request("POST", path, retry=False)))


class Keys:
    """API keys, by id. Made by `Client`.

    Args:
        run: Runs an operation of the client.
    """

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run

    def create(
        self,
        scope: KeyScope,
        *,
        name: str = "",
        tasks: str = "*",
        expires: float | None = None,
        **quotas: Unpack[Quotas],
    ) -> NewApiKey:
        """Make a key; the answer shows it for the only time. Never sent twice by itself.

        Args:
            scope: `monitor` (metrics), `infer`, `update` (infer, and learn) or `admin` (everything).
            name: Free text.
            tasks: A pattern of task keys that it may name: `*` and `?`.
            expires: Unix seconds; None for never.
            quotas: `requests_per_second`, `rows_per_second`, `updates_per_second`.
        """
        made: NewApiKey = self._run(_create(scope, name, tasks, expires, quotas))
        return made

    def list(self) -> list[ApiKey]:
        """Return every key, the revoked ones too; never a secret."""
        found: list[ApiKey] = self._run(_list())
        return found

    def revoke(self, identifier: str) -> None:
        """End a key at once; what it did stays on record under its id."""
        self._run(_revoke(identifier))

    def rotate(self, identifier: str) -> NewApiKey:
        """Give a key a new secret; the old one is no good from now on."""
        made: NewApiKey = self._run(_rotate(identifier))
        return made


class AsyncKeys:
    """API keys, by id. Made by `AsyncClient`.

    Args:
        run: Runs an operation of the client.
    """

    def __init__(self, run: Callable[[Any], Awaitable[Any]]) -> None:
        self._run = run

    async def create(
        self,
        scope: KeyScope,
        *,
        name: str = "",
        tasks: str = "*",
        expires: float | None = None,
        **quotas: Unpack[Quotas],
    ) -> NewApiKey:
        """Make a key; the answer shows it for the only time. Never sent twice by itself.

        Args:
            scope: `monitor` (metrics), `infer`, `update` (infer, and learn) or `admin` (everything).
            name: Free text.
            tasks: A pattern of task keys that it may name: `*` and `?`.
            expires: Unix seconds; None for never.
            quotas: `requests_per_second`, `rows_per_second`, `updates_per_second`.
        """
        made: NewApiKey = await self._run(_create(scope, name, tasks, expires, quotas))
        return made

    async def list(self) -> list[ApiKey]:
        """Return every key, the revoked ones too; never a secret."""
        found: list[ApiKey] = await self._run(_list())
        return found

    async def revoke(self, identifier: str) -> None:
        """End a key at once; what it did stays on record under its id."""
        await self._run(_revoke(identifier))

    async def rotate(self, identifier: str) -> NewApiKey:
        """Give a key a new secret; the old one is no good from now on."""
        made: NewApiKey = await self._run(_rotate(identifier))
        return made
