"""API keys: made, shown once, recognised, revoked."""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import asdict, replace
from typing import Any

from superposed.errors import ConfigError
from superposed_service.errors import InvalidRequest, LimitReached, NotReady, Unauthenticated, UnknownApiKey
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


def authenticate(keys: ApiKeys, header: str | None) -> ApiKey:
    """Return the key that an `Authorization` header carries.

    Raise `Unauthenticated` for none, or one that is not good; `NotReady` where a leader that is not heard of may have
    revoked it.
    """
    scheme, _, text = (header or "").partition(" ")
    found = _TEXT.fullmatch(text.strip()) if scheme.lower() == "bearer" else None
    if found is None:
        raise Unauthenticated("this needs an API key", expected="Authorization: Bearer sp-…")
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
