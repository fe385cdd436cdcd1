"""Authorization: before a body is read, and for every task that a context names."""

import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Scope

from superposed.contexts import Leaf, as_expression, flatten
from superposed.errors import SuperposedError, UnknownTask
from superposed_service.api.auth.authentication import authenticate
from superposed_service.api.auth.rate_limits import Quotas
from superposed_service.errors import Forbidden
from superposed_service.observability.request_ids import AUTHOR, header
from superposed_service.storage import ApiKey, ApiKeys

_STATE = "superposed.principal"
# By what a route needs: the scopes of the keys that may use it.
_ALLOWED = {
    "monitor": {"monitor", "admin"},
    "infer": {"infer", "update", "admin"},
    "update": {"update", "admin"},
    "replicate": {"replicate", "admin"},
    "admin": {"admin"},
}
# With powers near 0, and with mixtures of many, all contexts meet in the identity: what is answered there is
# everybody's. The root of the sum of (weight x exponent)² tells how far from it a composition is; in cyclic
# stores, where an exponent turns a context and does not scale it, that of weight².
_SMALLEST_DISTANCE = 0.499

Endpoint = Callable[..., Awaitable[Response]]
_E = TypeVar("_E", bound=Callable[..., Any])
# Scope of a route that states none: no API key has it.
DENIED = "denied"


def requires(scope: str | None, *, fast: bool = False) -> Callable[[_E], _E]:
    """State the scope that an endpoint needs; None for an endpoint that is open to every client.

    A `fast` endpoint takes nothing but the request, and is called without the framework.
    """

    def stated(endpoint: _E) -> _E:
        endpoint.__dict__.update(required_scope=scope, fast=fast)
        return endpoint

    return stated


def required_scope(endpoint: Endpoint) -> str | None:
    """Return the scope that an endpoint states; `DENIED` where it states none."""
    scope: str | None = getattr(endpoint, "required_scope", DENIED)
    return scope


@dataclass(frozen=True)
class Principal:
    """The API key that sent a request, and its quotas; `cyclic` where the store's family is the cyclic one.

    The key is None on a server without keys, where anyone may do anything; without quotas there is no limit.
    """

    key: ApiKey | None = None
    quotas: Quotas | None = None
    cyclic: bool = False

    def spend(self, *, rows: int, updates: int = 0) -> None:
        """Count rows and updates before anything is done with them; raises as `Quotas.spend`."""
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

    def check_group(self, key: str) -> None:
        """Raise `UnknownTask` for a group that it may not join; joining gives no other right to it."""
        if self.key is None or not fnmatchcase(key, self.key.groups):
            self.check_task(key)

    def may_address(self, context: object) -> bool:
        """Return True if `check_contexts` accepts a context."""
        try:
            self.check_contexts([context])
        except SuperposedError:
            return False
        return True

    def check_contexts(self, contexts: Iterable[object]) -> None:
        """Check every part of every context.

        Raise `UnknownTask` for a task that it may not name, as if that were not there, and `Forbidden` for a
        composition near the identity, where all contexts meet.
        """
        if self.sees_all:
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
                refusal = "this API key may not use exponents near 0 or mixtures of many, where all contexts meet"
                raise Forbidden(refusal, expected="an exponent of 0.5 or more, up to 4 equal parts", received=text)

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


class Access:
    """Admit a request if its API key has the scope of its route; before the body is read.

    While there is no API key at all, every client may do anything: such a server listens on loopback only.
    `cyclic` is as in `Principal`.
    """

    def __init__(self, keys: ApiKeys, quotas: Quotas, *, cyclic: bool = False) -> None:
        self._keys, self._quotas, self._cyclic = keys, quotas, cyclic
        self._anyone = Principal(None, quotas, cyclic)

    def check(self, scope: Scope, endpoint: Endpoint | None) -> None:
        """Put the principal of an HTTP request into its ASGI scope, where it is not yet; raises as `admit`.

        The endpoint is None where the router will answer 404 or 405.
        """
        if _STATE in scope:
            return
        needed = None if endpoint is None else required_scope(endpoint)
        if endpoint is not None and needed is None:
            principal = Principal()
        else:
            principal = self.admit(header(scope, b"authorization") if len(self._keys) else None, needed)
        scope[_STATE], scope[AUTHOR] = principal, principal.author

    def admit(self, authorization: str | None, needed: str | None, *, counted: bool = True) -> Principal:
        """Return the principal of an `Authorization` header, whose key must have the scope `needed`; None for any.

        A request that is not `counted` does not count against the quota of requests. Raise `Unauthenticated` where
        there are API keys, and the header carries none that is good; `Forbidden` where the key lacks the scope, or the
        endpoint states none; `QuotaExceeded` where it has sent too many requests.
        """
        key = authenticate(self._keys, authorization) if len(self._keys) else None
        if key is not None and needed is not None and key.scope not in _ALLOWED.get(needed, ()):
            wanted = "a route that is open to API keys" if needed == DENIED else f"scope {needed}"
            raise Forbidden("this API key may not do this", expected=wanted, received=f"scope {key.scope}")
        if counted:
            self._quotas.spend(key, requests=1)
        return self._anyone if key is None else Principal(key, self._quotas, self._cyclic)
