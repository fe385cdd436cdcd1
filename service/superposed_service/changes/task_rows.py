"""Rows and targets of a task, as a client would send them: its updates in the journal, and rows kept of it."""

from typing import Any

from superposed.store.store import WeightStore
from superposed.tasks.registry import TaskState
from superposed_service.changes.base import JsonObject
from superposed_service.changes.exclusions import Exclusions
from superposed_service.changes.registration import Delete
from superposed_service.changes.rollback import teaching
from superposed_service.changes.update import Update
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
