"""Rows of a task, in the journal and kept: as a client would send them; and their erasure: what was learned stays."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from superposed.errors import UnknownTask
from superposed.store.store import WeightStore
from superposed.tasks.registry import TaskState
from superposed_service.changes.base import JsonObject
from superposed_service.changes.exclusions import FORGET_ROWS, Exclusions
from superposed_service.changes.registration import Delete
from superposed_service.changes.rollback import teaching
from superposed_service.changes.update import Update
from superposed_service.errors import NotReady
from superposed_service.storage import Journal, TransactionLog

_MOST_UPDATES = 64


def read_task_rows(transaction_log: TransactionLog, store: WeightStore, key: str, after: int) -> list[JsonObject]:
    """Return the first updates of a task after a record, in order, on the journal's thread.

    From the beginning (`after` 0), the rows kept for rehearsal come first, if the journal has not every update: they
    have the sequence number before its oldest record. Left out are updates whose rows were erased, and those of a
    mixture or a power. `origin` is the idempotency key and the hash of the request that an update came from.
    """
    state, journal = store.tasks.get(key), transaction_log.journal
    sequences = _of_registration(journal, key)
    found = [] if after or len(sequences) >= state.updates else _kept(store, state, journal.horizon)
    left = journal.with_payload([one for one in sequences if one > after])[:_MOST_UPDATES]
    found += [one for sequence in left if (one := _sent(store, state, journal, sequence))]
    origins = transaction_log.answers.origins(after)
    for one in found:
        if (origin := origins.get(one["sequence"])) is not None:
            one["origin"] = (origin.key, origin.request.hex())
    return found


def _of_registration(journal: Journal, key: str) -> list[int]:
    """Return the updates of a key since it was last registered, without those that were taken out."""
    deleted = [sequence for sequence, _, head in journal.heads({Delete.kind}) if head["key"] == key]
    exclusions = Exclusions.read(journal, journal.sequence)
    return [one for one in teaching(key, journal)[1] if one > max(deleted, default=0) and one not in exclusions]


def _kept(store: WeightStore, state: TaskState, horizon: int) -> list[JsonObject]:
    """Return kept rows of numbers with classes; others are kept in a form that no client sends."""
    schema = state.schema
    if schema.kind == "records" or schema.loss == "mse" or not store.replay_buffer.rows_kept(schema.key):
        return []
    rows, classes = store.replay_buffer.rows_of(schema.key, schema.inputs)
    return [{"sequence": horizon, "inputs": rows, "targets": _labels(state, classes.tolist()), "steps": 1}]


def _sent(store: WeightStore, state: TaskState, journal: Journal, sequence: int) -> JsonObject | None:
    [record] = journal.replay(sequence - 1, sequence)
    update = Update.from_record(record)
    prepared = update.prepare(store)
    places = list(prepared.places_of(state.schema.key))
    if not places:
        return None
    rows, targets = prepared.rows, prepared.targets
    aims: list[Any] = _labels(state, targets.classes[places].tolist())
    if targets.values is not None and state.schema.loss == "mse":
        aims = targets.values[places, : state.schema.outputs].tolist()
    weights = {} if targets.weights is None else {"sample_weight": targets.weights[places].tolist()}
    form = "records" if rows.are_records else "inputs"
    sent = {form: [rows.inputs[place] for place in places], "targets": aims, "steps": update.steps}
    return {"sequence": sequence} | sent | weights


def _labels(state: TaskState, classes: list[int]) -> list[Any]:
    labels = state.schema.labels
    return list(classes) if labels is None else [labels[number] for number in classes]


def find_rows(transaction_log: TransactionLog, store: WeightStore, key: str) -> tuple[bool, bool, int]:
    """Find what there is to erase of a task, on the journal's thread; raise `UnknownTask` for a key that no task had.

    Return whether rows of it stand in the journal, or are kept for rehearsal; whether older snapshots may hold rows
    that are kept for rehearsal; and the sequence number of its newest erasure, 0 for none.
    """
    journal, replay_buffer = transaction_log.journal, store.replay_buffer
    begins, found = teaching(key, journal)
    if not (begins or found or key in store.tasks):
        raise UnknownTask("no task has or had this key", received=key)
    erasures = [sequence for sequence, _, head in journal.rare({FORGET_ROWS}) if head["key"] == key]
    has_rows = bool(journal.with_payload(found)) or replay_buffer.names(key)
    return has_rows, replay_buffer.enabled, max(erasures, default=0)


def erased_before(journal: Journal, now: float) -> tuple[int, Exclusions]:
    """Find which snapshots hold erased rows and have had their time.

    Return the sequence number before which snapshots are to be removed by now, 0 for none; and the exclusions, which
    tell the snapshots that recovery can start from.
    """
    erasures = journal.rare({FORGET_ROWS})
    due = [sequence for sequence, _, head in erasures if (head.get("snapshots_until") or math.inf) <= now]
    return max(due, default=0), Exclusions.read(journal, journal.sequence, checked=True)


def forgotten(journal: Journal) -> dict[str, list[int]]:
    """Return the records whose rows a later record forgets, and that still have them, by task."""
    newest = {head["key"]: sequence for sequence, _, head in journal.rare({FORGET_ROWS})}
    return {
        key: journal.with_payload([one for one in teaching(key, journal)[1] if one < sequence])
        for key, sequence in newest.items()
    }


def erase_rows(transaction_log: TransactionLog, records: Mapping[str, Sequence[int]], through: int) -> None:
    """Erase the payloads of records that teach tasks, and the tasks' canaries, on the journal's thread.

    Whole payloads go, also of updates that teach other tasks beside it. A rollback that would have to replay one of
    them is refused from then on. `through` is a snapshot's sequence number that no record's is beyond: later ones are
    needed for recovery. Raise `NotReady` where the snapshot cannot be started from any more.
    """
    journal = transaction_log.journal
    if not Exclusions.read(journal, journal.sequence, checked=True).allows_start(through):
        raise NotReady("a rollback has changed the past since the snapshot was taken: ask again")
    for key, sequences in records.items():
        transaction_log.erase(key, sequences)
