"""Changes at the door: whether each came before, can be written, and fits the store as it is."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeAlias

from superposed.store.store import WeightStore
from superposed_service.changes.base import JsonObject, PreparedChange, rejected
from superposed_service.changes.quarantine import AUTHOR
from superposed_service.engine.work import PendingWrite
from superposed_service.errors import IdempotencyInFlight, IdempotencyMismatch
from superposed_service.storage import Record, TransactionLog
from superposed_service.storage.idempotency import IdempotencyKey

# Gets a record and its outcome.
Observer: TypeAlias = Callable[[Record, Future[JsonObject]], None]


@dataclass(frozen=True)
class PreparedWrite:
    """A write whose change was prepared, and may be journalled; its idempotency key has the owner."""

    write: PendingWrite
    change: PreparedChange
    idempotency_key: IdempotencyKey | None = None


def admit(writes: Sequence[PendingWrite], store: WeightStore, log: TransactionLog) -> list[PreparedWrite]:
    """Return the changes of a group that may be journalled; the others are answered at once.

    On the engine's thread, and never while a group is journalled.
    """
    entering: dict[str, IdempotencyKey] = {}
    waiting = (write for write in writes if write.future.set_running_or_notify_cancel())
    found = (_let_in(write, store, log, entering) for write in waiting)
    return [write for write in found if write is not None]


def _let_in(
    write: PendingWrite, store: WeightStore, log: TransactionLog, entering: dict[str, IdempotencyKey]
) -> PreparedWrite | None:
    try:
        answer = settled(log, write.idempotency_key, entering)
        if answer is None:
            log.check_writable()
            log.epochs.check_open()
            prepared = write.change.prepare(store)
            if isinstance(prepared, PreparedChange):
                if (key := write.idempotency_key) is not None:  # count it among its owner's
                    owner = prepared.task if write.change.author is None else AUTHOR + write.change.author
                    log.answers.check_room(owner, sum(one.owner == owner for one in entering.values()))
                    key = entering[key.key] = replace(key, owner=owner)
                return PreparedWrite(write, prepared, key)
            answer = prepared
        write.future.set_result(answer)
    except Exception as error:  # noqa: BLE001 - belongs to this request, not to the engine
        write.future.set_exception(error)
    return None


def settled(
    log: TransactionLog, idempotency_key: IdempotencyKey | None, entering: Mapping[str, IdempotencyKey]
) -> JsonObject | None:
    """Return the answer that a request had when it came before; raises what it was refused with.

    `entering` holds the requests of the same group, by key. Raise `IdempotencyMismatch` where the key came with
    another request, `IdempotencyInFlight` while the same request is being worked on.
    """
    if idempotency_key is None:
        return None
    kept = log.answers.find(idempotency_key)
    unanswered = kept is not None and kept.answer is None
    twin = entering.get(idempotency_key.key)
    if twin is not None and twin != idempotency_key:
        raise IdempotencyMismatch("this Idempotency-Key came with another request", received=idempotency_key.key)
    if unanswered:
        log.check_writable()  # after a failed commit no thread works on it any more
    if twin is not None or unanswered:
        text = "the same request is being worked on: ask again for its answer"
        raise IdempotencyInFlight(text, received=idempotency_key.key)
    return None if kept is None or kept.answer is None else rejected(kept.answer)
