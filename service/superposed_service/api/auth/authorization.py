"""API keys: made, shown once, recognised, revoked; and authorization, also for every task that a context names."""

import hashlib
import hmac
import math
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Scope

from superposed.contexts import Leaf, as_expression, flatten
from superposed.errors import ConfigError, SuperposedError, UnknownTask
from superposed_service.api.auth.rate_limits import Quotas
from superposed_service.errors import Forbidden, InvalidRequest, LimitReached, NotReady, Unauthenticated, UnknownApiKey
from superposed_service.observability.request_ids import AUTHOR, header
from superposed_service.storage import ApiKey, ApiKeys, TransactionLog
from superposed_service.storage.api_keys import AccessScope

_TEXT = re.compile(r"sp-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")


def create(
    transaction_log: TransactionLog,
    *,
    scope: AccessScope,
    tasks: str = "*",
    most: int | None = None,
    given: tuple[str, str] | None = None,
    **fields: Any,
) -> tuple[ApiKey, str]:
    """Make an API key with fields of `ApiKey`; return it and its text, which is seen this once only.

    On the thread that owns the transaction log. There may be `most` keys, the revoked ones too; None is no limit. Raise
    `LimitReached` beyond it, and `InvalidRequest` for a pattern of scope admin or replicate, which would bind nothing,
    and for a `given` id, which comes with its secret, that is in use.
    """
    if scope in {"admin", "replicate"} and tasks != "*":
        raise InvalidRequest(f"a key of scope {scope} reaches every task", expected="tasks: *", received=tasks)
    if most is not None and len(transaction_log.api_keys) >= most:
        raise LimitReached("there are as many API keys as there may be", expected=most, received=most + 1)
    identifier, secret = given or (secrets.token_hex(6), secrets.token_urlsafe(32))
    if transaction_log.api_keys.get(identifier) is not None:
        raise InvalidRequest("an API key has this id already", expected="another id", received=identifier)
    fields |= {"created": time.time(), "since": transaction_log.journal.sequence}
    key = ApiKey(id=identifier, scope=scope, tasks=tasks, secret_sha256=_digest(secret), **fields)
    transaction_log.api_keys.put(key)
    return key, f"sp-{identifier}-{secret}"


def begin_with(transaction_log: TransactionLog, text: str) -> None:
    """Give a store without API keys its first one, of scope admin; raise `ConfigError` where the text is none."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ConfigError("SUPERPOSED_FIRST_API_KEY is no API key", expected="sp-ID-SECRET, as a server makes them")
    if not len(transaction_log.api_keys):
        create(transaction_log, scope="admin", name="first", given=(found[1], found[2]))


def revoke(transaction_log: TransactionLog, identifier: str) -> None:
    """End a key at once; what it did stays on record under its id. Raise `UnknownApiKey` where there is none."""
    key = transaction_log.api_keys.find(identifier)
    if key.revoked is None:
        transaction_log.api_keys.put(replace(key, revoked=time.time()))


def rotate(transaction_log: TransactionLog, identifier: str, secret: str | None = None) -> tuple[ApiKey, str]:
    """Give a key a new secret, drawn here by default; raise `UnknownApiKey` where there is none or it was revoked."""
    key = transaction_log.api_keys.find(identifier)
    if key.revoked is not None:
        raise UnknownApiKey("this API key was revoked", expected="a key in use", received=identifier)
    secret = secret or secrets.token_urlsafe(32)
    rotated = replace(key, secret_sha256=_digest(secret))
    transaction_log.api_keys.put(rotated)
    return rotated, f"sp-{identifier}-{secret}"


def keys_body(keys: ApiKeys) -> list[dict[str, Any]]:
    """Return all keys as they may be shown."""
    return [{name: value for name, value in asdict(key).items() if name != "secret_sha256"} for key in keys.all()]


def take_keys(transaction_log: TransactionLog, keys: Iterable[ApiKey]) -> int:
    """Keep API keys of another cell, of those that are here only revocations; return the number of those kept."""
    here = transaction_log.api_keys
    news = [one for one in keys if (known := here.get(one.id)) is None or (one.revoked and not known.revoked)]
    for one in news:
        here.put(replace(one, since=transaction_log.journal.sequence))
    return len(news)


def authenticate(keys: ApiKeys, header: str | None) -> ApiKey:
    """Return the key that an `Authorization` header carries.

    Raise `Unauthenticated` for none, or one that is not good; `NotReady` where a leader that is not heard of may have
    revoked it.
    """
    scheme, _, text = (header or "").partition(" ")
    found = _TEXT.fullmatch(text.strip()) if scheme.lower() == "bearer" else None
    if found is None:
        raise Unauthenticated("this needs an API key (SUPERPOSED_API_KEY)", expected="Authorization: Bearer sp-…")
    key = keys.get(found.group(1))
    # Compared whether or not there is such a key, so that the time taken says nothing.
    right = hmac.compare_digest(_digest(found.group(2)), key.secret_sha256 if key else _digest(""))
    if key is None or not right or not key.is_good(time.time()):
        raise Unauthenticated("this API key is not good", expected="one that was neither revoked nor expired")
    if time.monotonic() > keys.good_until and key.scope != "replicate":  # a promotion must be possible
        raise NotReady("this follower has not heard of its leader for long: keys may have been revoked there")
    return key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


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
        if self.key is not None and not self.may_name(key):
            wanted = f"a task {self.key.tasks}, as this API key may name; groups to join: {self.key.groups or 'none'}"
            raise UnknownTask("no task has this key", expected=wanted, received=key)

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
