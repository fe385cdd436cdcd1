"""`client.keys`: the server's API keys, for a client whose own key has scope admin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from superposed_client import _operations as operations
from superposed_client._models import ApiKey, NewApiKey
from superposed_client._operations import KeyScope

__all__ = ["AsyncKeys", "Keys"]


class Keys:
    """API keys, by id. Made by `Client`.

    Args:
        run: Runs an operation of the client.
    """

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run

    def create(
        self, scope: KeyScope, *, name: str = "", tasks: str = "*", expires: float | None = None
    ) -> NewApiKey:
        """Makes a key; the answer shows it for the only time. Never sent twice by itself.

        Args:
            scope: `monitor` (metrics), `infer`, `update` (infer, and learn) or `admin` (everything).
            name: Free text.
            tasks: A pattern of task keys that it may name: `*` and `?`.
            expires: Unix seconds; None for never.
        """
        made: NewApiKey = self._run(operations.create_key(scope, name, tasks, expires))
        return made

    def list(self) -> list[ApiKey]:
        """Every key, the revoked ones too; never a secret."""
        found: list[ApiKey] = self._run(operations.list_keys())
        return found

    def revoke(self, identifier: str) -> None:
        """Ends a key at once; what it did stays on record under its id."""
        self._run(operations.revoke_key(identifier))

    def rotate(self, identifier: str) -> NewApiKey:
        """Gives a key a new secret; the old one is no good from now on."""
        made: NewApiKey = self._run(operations.rotate_key(identifier))
        return made


class AsyncKeys:
    """API keys, by id. Made by `AsyncClient`.

    Args:
        run: Runs an operation of the client.
    """

    def __init__(self, run: Callable[[Any], Awaitable[Any]]) -> None:
        self._run = run

    async def create(
        self, scope: KeyScope, *, name: str = "", tasks: str = "*", expires: float | None = None
    ) -> NewApiKey:
        """Makes a key; the answer shows it for the only time. Never sent twice by itself.

        Args:
            scope: `monitor` (metrics), `infer`, `update` (infer, and learn) or `admin` (everything).
            name: Free text.
            tasks: A pattern of task keys that it may name: `*` and `?`.
            expires: Unix seconds; None for never.
        """
        made: NewApiKey = await self._run(operations.create_key(scope, name, tasks, expires))
        return made

    async def list(self) -> list[ApiKey]:
        """Every key, the revoked ones too; never a secret."""
        found: list[ApiKey] = await self._run(operations.list_keys())
        return found

    async def revoke(self, identifier: str) -> None:
        """Ends a key at once; what it did stays on record under its id."""
        await self._run(operations.revoke_key(identifier))

    async def rotate(self, identifier: str) -> NewApiKey:
        """Gives a key a new secret; the old one is no good from now on."""
        made: NewApiKey = await self._run(operations.rotate_key(identifier))
        return made
