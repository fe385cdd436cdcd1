"""Authorization: before a body is read, and for every task that a context names."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from starlette.routing import BaseRoute, Match, compile_path
from starlette.types import Scope

from superposed.contexts import Leaf, as_expression, flatten
from superposed.errors import SuperposedError, UnknownTask
from superposed_service.api.auth.api_keys import authenticate
from superposed_service.api.auth.rate_limits import Quotas
from superposed_service.errors import Forbidden
from superposed_service.observability.request_ids import AUTHOR, header
from superposed_service.storage import ApiKey, ApiKeys

__all__ = ["ACCESS_RULES", "Access", "Principal", "admit", "principal_of"]

_STATE = "superposed.principal"
# By what a route needs: the scopes of the keys that may use it.
_ALLOWED = {
    "monitor": {"monitor", "admin"},
    "infer": {"infer", "update", "admin"},
    "update": {"update", "admin"},
    "admin": {"admin"},
}
# With powers near 0, and with mixtures of many, all contexts meet in the identity: what is answered there is
# everybody's. The root of the sum of (weight x exponent)² tells how far from it a composition is; in cyclic
# stores, where an exponent turns a context and does not scale it, that of weight².
_SMALLEST_DISTANCE = 0.499

# The scope each route needs; None for none. A route that is missing here is denied. A name may have slashes
# in it (`group/task`), so the longer paths come first.
ACCESS_RULES: Mapping[tuple[str, str], str | None] = {
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("GET", "/metrics"): "monitor",
    ("GET", "/console"): None,
    ("GET", "/console/{path:path}"): None,
    ("GET", "/"): None,
    ("GET", "/docs"): None,
    ("GET", "/openapi.json"): "infer",
    ("GET", "/v1/store"): "infer",
    ("GET", "/v1/capacity"): "infer",
    ("GET", "/v1/interference"): "infer",
    ("GET", "/v1/events"): "infer",
    ("GET", "/v1/tasks"): "infer",
    ("GET", "/v1/tasks/{key:path}/evaluations"): "infer",
    ("POST", "/v1/infer"): "infer",
    ("POST", "/v1/evaluate"): "infer",
    ("POST", "/v1/locate"): "infer",
    ("POST", "/v1/tasks"): "update",
    ("DELETE", "/v1/tasks/{key:path}/data"): "update",
    ("POST", "/v1/update"): "update",
    ("PUT", "/v1/tasks/{key:path}/model"): "update",
    ("POST", "/v1/consolidate"): "admin",
    ("GET", "/v1/model"): "admin",
    ("GET", "/v1/snapshots"): "admin",
    ("POST", "/v1/snapshots"): "admin",
    ("POST", "/v1/snapshots/{identifier}/restore"): "admin",
    ("POST", "/v1/rollback"): "admin",
    ("GET", "/v1/quarantine"): "admin",
    ("POST", "/v1/quarantine"): "admin",
    ("DELETE", "/v1/quarantine/{source}"): "admin",
    ("GET", "/v1/keys"): "admin",
    ("POST", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/{identifier}"): "admin",
    ("POST", "/v1/keys/{identifier}/rotate"): "admin",
    ("GET", "/v2"): "infer",
    ("GET", "/v2/"): "infer",
    ("GET", "/v2/health/live"): None,
    ("GET", "/v2/health/ready"): None,
    ("GET", "/v2/models/stats"): "infer",
    ("GET", "/v2/models/{model:path}/versions/{version}/ready"): "infer",
    ("GET", "/v2/models/{model:path}/versions/{version}/config"): "infer",
    ("GET", "/v2/models/{model:path}/versions/{version}/stats"): "infer",
    ("GET", "/v2/models/{model:path}/ready"): "infer",
    ("GET", "/v2/models/{model:path}/config"): "infer",
    ("GET", "/v2/models/{model:path}/stats"): "infer",
    ("POST", "/v2/repository/index"): "infer",
    ("POST", "/v2/repository/models/{model:path}/load"): "infer",
    ("POST", "/v2/repository/models/{model:path}/unload"): "infer",
    ("POST", "/v2/models/{model:path}/versions/{version}/infer"): "infer",
    ("POST", "/v2/models/{model:path}/infer"): "infer",
    ("GET", "/v2/models/{model:path}/versions/{version}"): "infer",
    ("GET", "/v2/models/{model:path}"): "infer",
    ("GET", "/v1/tasks/{key:path}"): "infer",
    ("DELETE", "/v1/tasks/{key:path}"): "update",
}


@dataclass(frozen=True)
class Principal:
    """The API key that sent a request.

    Args:
        key: The API key; None on a server without keys, where anyone may do anything.
        quotas: What it may ask for; None for anything.
        cyclic: Whether the store's family is the cyclic one.
    """

    key: ApiKey | None = None
    quotas: Quotas | None = None
    cyclic: bool = False

    def spend(self, *, rows: int, updates: int = 0) -> None:
        """Count rows and updates before anything is done with them.

        Raises:
            QuotaExceeded: It may not ask for so many now.
        """
        if self.quotas is not None:
            self.quotas.spend(self.key, rows=rows, updates=updates)

    @property
    def author(self) -> str | None:
        """Its id in the journal."""
        return None if self.key is None else self.key.id

    @property
    def sees_all(self) -> bool:
        """True if it may name every task; a principal that may not is a tenant and is shown its own."""
        return self.key is None or self.key.tasks == "*"

    @property
    def is_admin(self) -> bool:
        """True for scope admin, and on a server without API keys."""
        return self.key is None or self.key.scope == "admin"

    def is_still_good(self, keys: ApiKeys) -> bool:
        """Return True if its API key is unchanged and has not expired, so that a long request may go on."""
        if self.key is None:
            return len(keys) == 0
        now = keys.get(self.key.id)
        return now == self.key and now.is_good(time.time())

    def may_name(self, key: str) -> bool:
        """Return True if it may name a task key."""
        return self.key is None or fnmatchcase(key, self.key.tasks)

    def check_task(self, key: str) -> None:
        """Raise `UnknownTask` for a foreign task, as for one that is not there."""
        if not self.may_name(key):
            raise UnknownTask("no task has this key", expected="a registered task", received=key)

    def may_address(self, context: object) -> bool:
        """Return True if `check_contexts` accepts a context."""
        try:
            self.check_contexts([context])
        except SuperposedError:
            return False
        return True

    def check_contexts(self, contexts: Iterable[object]) -> None:
        """Check every part of every context.

        Raises:
            UnknownTask: A task that it may not name, as if that were not there.
            Forbidden: A composition near the identity, where all contexts meet.
        """
        if self.key is None or self.key.tasks == "*":
            return
        seen: set[str] = set()
        for context in contexts:
            if isinstance(context, str) and context in seen:
                continue
            expression = as_expression(context)
            text = context if isinstance(context, str) else str(expression)
            seen.add(text)
            leaves = flatten(expression)
            for leaf in leaves:
                self.check_task(leaf.key)
            if self._distance(leaves) < _SMALLEST_DISTANCE:
                raise Forbidden(
                    "this API key may not use exponents near 0 or mixtures of many, where all contexts meet",
                    expected="an exponent of 0.5 or more, up to 4 equal parts",
                    received=text,
                )

    def _distance(self, leaves: Iterable[Leaf]) -> float:
        """Return the distance of a composition from the identity."""
        shares: dict[str, float] = defaultdict(float)
        for leaf in leaves:
            scale = 1.0 if self.cyclic or leaf.exponent is None else leaf.exponent
            shares[leaf.key] += leaf.weight * scale
        return math.sqrt(sum(share**2 for share in shares.values()))


def principal_of(scope: Mapping[str, object]) -> Principal:
    """Return the principal that sent the request of an ASGI scope."""
    found = scope[_STATE]
    assert isinstance(found, Principal)  # noqa: S101 - `Access` has put it there
    return found


def admit(keys: ApiKeys, header: str | None, quotas: Quotas | None, *, cyclic: bool = False) -> Principal:
    """Return the principal of an `Authorization` header, where scope infer is needed.

    Args:
        keys: The API keys.
        header: What the request carries.
        quotas: What each key may ask for; None for what everyone may always ask.
        cyclic: Whether the store's family is the cyclic one.

    Raises:
        Unauthenticated: There are API keys, and the header carries none that is good.
        Forbidden: Its scope is another one.
        QuotaExceeded: It has sent too many requests.
    """
    key = authenticate(keys, header) if len(keys) else None
    if key is not None:
        _check_scope(key, "infer")
    if quotas is not None:
        quotas.spend(key, requests=1)
    return Principal(key, quotas, cyclic)


def _check_scope(key: ApiKey, needed: str | None) -> None:
    """Raise `Forbidden` unless a key may do what needs a scope; None is for nobody."""
    if needed is None or key.scope not in _ALLOWED[needed]:
        raise Forbidden(
            "this API key may not do this",
            expected="a route that is open to API keys" if needed is None else f"scope {needed}",
            received=f"scope {key.scope}",
        )


class Access:
    """Lets a request pass if its API key may do what its route needs; before the body is read.

    While there is no API key at all, anyone may do anything: such a server listens on loopback only.

    Args:
        keys: The API keys.
        routes: The application's routes: those without a rule are for nobody.
        quotas: How many requests each key may send.
        cyclic: Whether the store's family is the cyclic one.
    """

    def __init__(
        self, keys: ApiKeys, routes: Sequence[BaseRoute], quotas: Quotas, *, cyclic: bool = False
    ) -> None:
        self._keys = keys
        self._routes = routes
        self._quotas = quotas
        self._cyclic = cyclic
        self._anyone = Principal(None, quotas, cyclic)
        self._patterns = [
            (method, compile_path(path)[0], needed)
            for (method, path), needed in ACCESS_RULES.items()
            if "{" in path
        ]

    def check(self, scope: Scope) -> None:
        """Note in an HTTP request's ASGI scope who sent it.

        Raises:
            Unauthenticated: There are API keys, and the request carries none that is good.
            Forbidden: The key's scope is another one, or the route is for nobody.
            QuotaExceeded: It has sent too many requests.
        """
        scope[_STATE] = principal = self._admit(scope)
        scope[AUTHOR] = principal.author

    def _admit(self, scope: Scope) -> Principal:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        needed = self._needed(method, scope["path"])
        if needed and needed[0] is None:
            return Principal()
        key = self._allowed(scope, needed) if len(self._keys) else None
        self._quotas.spend(key, requests=1)
        return self._anyone if key is None else Principal(key, self._quotas, self._cyclic)

    def _needed(self, method: str, path: str) -> list[str | None]:
        """Return the rule of a route; nothing where there is none."""
        if (method, path) in ACCESS_RULES:
            return [ACCESS_RULES[method, path]]
        return [
            rule for known, pattern, rule in self._patterns if known == method and pattern.fullmatch(path)
        ]

    def _allowed(self, scope: Scope, needed: Sequence[str | None]) -> ApiKey:
        key = authenticate(self._keys, header(scope, b"authorization"))
        if not needed and not self._is_routed(scope):
            return key  # no such route: the router says so
        _check_scope(key, needed[0] if needed else None)
        return key

    def _is_routed(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] == Match.FULL for route in self._routes)
