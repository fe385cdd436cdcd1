"""Any order of changes, crashes and rollbacks, against a model that is only a list of what happened."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from superposed import WeightStore, learn
from superposed.errors import SuperposedError, UnknownTask, UpdateError
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.update import Update
from superposed_service.engine.work import PendingWrite
from superposed_service.errors import HistoryTruncated, IdempotencyMismatch, InvalidRequest, Quarantined
from superposed_service.storage.idempotency import IdempotencyKey
from tests.helpers.machine import Machine, commit, new_store, schema

KEYS = st.sampled_from(["a", "b", "c"])
CONTEXTS = st.sampled_from(["a", "b", "c", "mix(a:0.3,b:0.7)", "b^0.5", "mix(a:1,c^2:2)"])


def rows(seed: int) -> tuple[list[list[float]], list[int]]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(3, 4)).tolist(), draw.integers(0, 2, 3).tolist()


class Model:
    """Events in order; a rollback is the set of sequence numbers that it takes out."""

    def __init__(self) -> None:
        self.happened: list[tuple[str, Any]] = []

    @property
    def head(self) -> int:
        return len(self.happened)

    def add(self, kind: str, what: Any = None) -> None:
        self.happened.append((kind, what))

    def counting(self) -> list[tuple[int, str, Any]]:
        """Return the records that count, reading rollbacks from the last, as later ones undo earlier ones."""
        out: set[int] = set()
        left = []
        for sequence in range(self.head, 0, -1):
            kind, what = self.happened[sequence - 1]
            if sequence in out:
                continue
            if kind == "rollback":
                out |= what
            else:
                left.append((sequence, kind, what))
        return left[::-1]

    def store(self) -> WeightStore:
        """A new store that lives through what counts; what cannot happen any more does not."""
        store = new_store()
        for sequence, kind, what in self.counting():
            store.sequence = sequence - 1
            with contextlib.suppress(SuperposedError):
                if kind == "register":
                    store.register(schema(what))
                elif kind == "delete":
                    store.delete(what)
                elif kind == "update" and not any(key in what[0] for key in store.tasks.quarantined):
                    learn(store, what[0], *rows(what[1]))
                elif kind == "quarantine":
                    store.tasks.quarantined.setdefault(what, sequence)
                elif kind == "release":
                    store.tasks.quarantined.pop(what, None)
        store.sequence = self.head
        return store


class History(RuleBasedStateMachine):
    """With a journal that reaches back to the beginning."""

    LIMITS: ClassVar[dict[str, int]] = {"history_records": 10_000, "snapshots_kept": 3}

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.machine = Machine(Path(self.folder.name) / "store", **self.LIMITS)
        self.model = Model()
        self.seeds = iter(range(1, 10**6))
        self.sent: dict[str, tuple[str, int, dict[str, Any]]] = {}

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.machine.close()
            self.folder.cleanup()

    @rule(key=KEYS)
    def register(self, key: str) -> None:
        if self.machine.register(key)["new"]:
            self.model.add("register", key)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        if key in self.machine.store.tasks:
            self.machine.delete(key)
            self.model.add("delete", key)
        else:
            with pytest.raises(UnknownTask):
                self.machine.delete(key)

    @rule(context=CONTEXTS)
    def update(self, context: str) -> None:
        seed = next(self.seeds)
        key = f"key-{seed}"
        try:
            answer = self.machine.update(context, *rows(seed), key=key)
        except UnknownTask:
            return
        except Quarantined:
            self.model.add("update", (context, seed))
            with pytest.raises(Quarantined):
                self.machine.update(context, *rows(seed), key=key)
            assert self.held(context)
            return
        assert not self.held(context)
        self.model.add("update", (context, seed))
        assert answer["sequence"] == self.model.head
        self.sent[key] = (context, seed, answer)

    @rule(context=CONTEXTS)
    def refused(self, context: str) -> None:
        inputs, targets = rows(next(self.seeds))
        inputs[0][0] = 1e38
        try:
            self.machine.update(context, inputs, targets)
        except UnknownTask:
            return
        except UpdateError:
            self.model.add("refused", context)
            self.model.add("refusal")
        except Quarantined:
            self.model.add("refused", context)
        else:
            raise AssertionError("it was not refused")

    def held(self, context: str) -> bool:
        return any(key in context for key in self.machine.store.tasks.quarantined)

    @rule(key=KEYS)
    def quarantine(self, key: str) -> None:
        self.machine.quarantine(key)
        self.model.add("quarantine", key)

    @rule(key=KEYS)
    def release(self, key: str) -> None:
        self.machine.release(key)
        self.model.add("release", key)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.sent)))
        context, seed, answer = self.sent[key]
        assert self.machine.update(context, *rows(seed), key=key) == answer
        other = IdempotencyKey(key, b"1" * 32)
        with pytest.raises(IdempotencyMismatch):
            self.machine.do(Update(RowBatch(context, None, rows(seed)[0]), rows(seed)[1], 1), other)

    @rule(contexts=st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=3), crash=st.booleans())
    def together(self, contexts: list[str], crash: bool) -> None:
        """Updates in one transaction; with a crash before any of them is applied."""
        seeds = [next(self.seeds) for _ in contexts]
        writes = [
            PendingWrite(Update(RowBatch(context, None, rows(seed)[0]), rows(seed)[1], 1))
            for context, seed in zip(contexts, seeds, strict=True)
        ]
        known = [context in self.machine.store.tasks for context in contexts]
        commit(self.machine.writer, writes)
        for context, seed, there in zip(contexts, seeds, known, strict=True):
            if there:
                self.model.add("update", (context, seed))
        if crash:
            self.machine.crash()
        while self.machine.writer.pending:
            self.machine.writer.apply_next()

    @rule()
    def snapshot(self) -> None:
        assert self.machine.snapshot().sequence == self.model.head

    @rule()
    def crash(self) -> None:
        self.machine.crash()

    @rule()
    def restart(self) -> None:
        self.machine.snapshot()
        self.machine.close()
        self.machine.open()
        assert self.machine.recovery.replayed == 0

    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(0, self.model.head + 1))
        before = self.model.head
        if to > before:
            with pytest.raises(InvalidRequest):
                self.machine.roll_back(to_sequence=to)
            return
        if (answer := self.rolled_back(to_sequence=to)) is None:
            return
        assert answer["excluded"] == ([[to + 1, before]] if to < before else [])
        if to < before:
            self.model.add("rollback", set(range(to + 1, before + 1)))

    @rule(key=KEYS)
    def without_a_task(self, key: str) -> None:
        happened = list(enumerate(self.model.happened, 1))
        if not any((kind, what) == ("register", key) for _, (kind, what) in happened):
            with pytest.raises(UnknownTask):
                self.machine.roll_back(task=key)
            return
        names = {sequence for sequence, (kind, what) in happened if kind == "update" and key in what[0]}
        refused = {sequence for sequence, (kind, what) in happened if kind == "refused" and key in what}
        answer = self.rolled_back(task=key)
        if answer is not None and answer["excluded"]:
            self.taken_out(names | refused, answer)

    @precondition(lambda self: self.model.head)
    @rule(data=st.data())
    def without_a_range(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(1, self.model.head))
        last = data.draw(st.integers(first, self.model.head))
        if (answer := self.rolled_back(sequences=(first, last))) is not None:
            self.taken_out(set(range(first, last + 1)), answer)

    def taken_out(self, asked: set[int], answer: dict[str, Any]) -> None:
        """The records that were asked for are out, and those that depend on them."""
        self.model.add("rollback", asked)
        self.is_what_the_model_says()  # the model finds by itself what cannot happen
        out = {number for first, last in answer["excluded"] for number in range(first, last + 1)}
        assert asked <= out
        self.model.happened[-1] = ("rollback", out)

    def rolled_back(self, **selection: object) -> dict[str, Any] | None:
        """The answer; None where the journal does not reach back, which only a trimmed one may not."""
        try:
            return self.machine.roll_back(**selection)
        except (HistoryTruncated, UnknownTask):
            assert self.LIMITS["history_records"] == 3
            return None

    @invariant()
    def is_what_the_model_says(self) -> None:
        if hasattr(self, "machine"):
            assert self.machine.store.digest() == self.model.store().digest()


class ShortHistory(History):
    """With a journal that is trimmed behind every snapshot."""

    LIMITS: ClassVar[dict[str, int]] = {"history_records": 3, "snapshots_kept": 2}


TestHistory, TestShortHistory = History.TestCase, ShortHistory.TestCase
TestHistory.settings = TestShortHistory.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
