from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superposed import WeightStore
from superposed.errors import CompositionNotSupported, NonFiniteUpdate, UnknownTask
from superposed.tasks.batch import Batch
from superposed_service.changes import update
from superposed_service.changes.base import PreparedChange
from superposed_service.changes.exclusions import REFUSAL
from superposed_service.changes.quarantine import Quarantine
from superposed_service.changes.registration import Delete
from superposed_service.changes.replay import recover
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.snapshot import begin
from superposed_service.engine.engine import Engine
from superposed_service.engine.writer import Writer
from superposed_service.errors import DeadlineExceeded, NotReady, Overloaded
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Record, TransactionLog
from tests.helpers.engines import make_store, prepared, running

X = np.random.default_rng(0).normal(size=(6, 8))


class Gate:
    """Holds the engine's thread until it is opened, so that a test can see what queues up behind it."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, _: WeightStore) -> None:
        self.entered.set()
        assert self.opened.wait(60)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, however slow the machine is."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def queued(engine: Engine, number: int) -> None:
    """Wait until so many requests stand in the queues."""
    await until(lambda: sum(engine.waiting) == number)


async def idle(engine: Engine) -> None:
    """Wait until the engine's thread has nothing to do and its turn has ended."""
    await until(lambda: not (sum(engine.waiting) or engine._executor.turn.locked()))


async def held(engine: Engine) -> tuple[Gate, asyncio.Task[None]]:
    gate = Gate()
    task = asyncio.create_task(engine.call(gate))
    await asyncio.to_thread(gate.entered.wait, 60)
    return gate, task


def test_what_waits_together_is_answered_in_one_mixed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = make_store()
        sizes: list[int] = []
        plain = store.logits

        def counted(batch: object) -> object:
            sizes.append(len(batch))  # type: ignore[arg-type]
            return plain(batch)  # type: ignore[arg-type]

        expected = {key: plain(store.batch(key, X[:2])).numpy() for key in "abcd"}
        monkeypatch.setattr(store, "logits", counted)
        async with running(store, batch_rows=8) as engine:
            gate, holding = await held(engine)
            waiting = [asyncio.create_task(engine.infer(RowBatch(key, None, X[:2]))) for key in "abcdab"]
            await queued(engine, 6)
            gate.opened.set()
            answers = await asyncio.gather(*waiting)
            await holding
        assert sizes == [8, 4]
        for key, answer in zip("abcdab", answers, strict=True):
            np.testing.assert_allclose(answer.logits, expected[key], rtol=1e-5, atol=1e-6)
            assert answer.sequence == 4

    asyncio.run(scenario())


def test_one_bad_request_does_not_spoil_the_batch_it_came_in() -> None:
    async def scenario() -> None:
        async with running(make_store("binary")) as engine:
            gate, holding = await held(engine)
            contexts = ["a", "nobody", "b^2", "mix(a:1,b:1)"]
            waiting = [asyncio.create_task(engine.infer(RowBatch(text, None, X))) for text in contexts]
            await queued(engine, 4)
            gate.opened.set()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            await holding
        assert [type(result).__name__ for result in results] == [
            "InferenceResult", UnknownTask.__name__, CompositionNotSupported.__name__, "InferenceResult",
        ]  # fmt: skip

    asyncio.run(scenario())


class Held:
    """Holds the first call of a function until it is opened, on whichever thread that comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: object, name: str, *, number: int = 1) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.calls, plain = 0, getattr(where, name)

        def held(*args: object, **kwargs: object) -> object:
            self.calls += 1
            if self.calls == number:
                self.entered.set()
                assert self.opened.wait(60)
            return plain(*args, **kwargs)

        monkeypatch.setattr(where, name, held)


def learning(engine: Engine, key: str, count: int) -> list[asyncio.Task[dict[str, object]]]:
    return [asyncio.create_task(engine.update(RowBatch(key, None, X[:1]), [0], 1)) for _ in range(count)]


def test_reads_and_updates_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store, order = make_store(), []
        apply, logits = update.apply, store.logits

        def applied(*args: Any, **kwargs: Any) -> object:
            order.append("update")
            return apply(*args, **kwargs)

        def answered(batch: Batch) -> object:
            order.append("read")
            return logits(batch)

        monkeypatch.setattr(update, "apply", applied)
        monkeypatch.setattr(store, "logits", answered)
        first = Held(monkeypatch, update, "apply")
        async with running(store, batch_rows=1) as engine:
            gate, holding = await held(engine)
            updates = learning(engine, "a", 4)
            await queued(engine, 4)
            gate.opened.set()
            await asyncio.to_thread(first.entered.wait, 60)  # all of them are committed by now
            reads = [asyncio.create_task(engine.infer(RowBatch("a", None, X[:1]))) for _ in range(3)]
            await queued(engine, 3)
            first.opened.set()
            await asyncio.gather(*reads, *updates, holding)
        assert order == ["update", "read", "update", "read", "update", "read", "update"]

    asyncio.run(scenario())


def test_while_one_group_is_journalled_the_one_before_is_applied_and_reads_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        apply = Held(monkeypatch, update, "apply")
        commit = Held(monkeypatch, TransactionLog, "write", number=2)
        async with running(make_store()) as engine:
            gate, holding = await held(engine)
            first = learning(engine, "a", 2)
            await queued(engine, 2)
            gate.opened.set()
            await asyncio.to_thread(apply.entered.wait, 60)
            second = learning(engine, "b", 2)
            await queued(engine, 2)
            apply.opened.set()
            assert [answer["sequence"] for answer in await asyncio.gather(*first, holding) if answer] == [5, 6]
            await asyncio.to_thread(commit.entered.wait, 60)
            assert (await engine.infer(RowBatch("b", None, X))).sequence == 6  # not applied: not on the disk yet
            registering = asyncio.create_task(engine.change(Delete("b")))
            assert not any(task.done() for task in [*second, registering])
            commit.opened.set()
            assert [answer["sequence"] for answer in await asyncio.gather(*second)] == [7, 8]
            await registering
            assert commit.calls == 3

    asyncio.run(scenario())


def test_what_could_not_be_journalled_is_neither_applied_nor_spoils_the_group_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        apply = Held(monkeypatch, update, "apply")
        async with running(make_store()) as engine:
            gate, holding = await held(engine)
            first = learning(engine, "a", 3)
            await queued(engine, 3)
            gate.opened.set()
            await asyncio.to_thread(apply.entered.wait, 60)
            engine._writer.transaction_log.database.failure = "a disk that is full"  # what is committed is there
            second = learning(engine, "b", 2)
            await queued(engine, 2)
            apply.opened.set()
            assert [answer["sequence"] for answer in await asyncio.gather(*first)] == [5, 6, 7]
            refused = await asyncio.gather(*second, holding, return_exceptions=True)
            assert [type(one).__name__ for one in refused] == ["StorageUnavailable"] * 2 + ["NoneType"]
            assert (await engine.infer(RowBatch("b", None, X))).sequence == 7

    asyncio.run(scenario())


def test_a_refusal_comes_after_the_group_that_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replayed, the journal gives the same store, whatever was refused while the next group was written."""

    async def scenario(path: Path) -> tuple[str, list[int]]:
        apply = Held(monkeypatch, update, "apply")
        with DataDirectory(path) as directory:
            begin(directory, make_store())
            engine = Engine(Writer(make_store(), directory.transaction_log()), Settings())
            engine.start()
            gate, holding = await held(engine)
            first = learning(engine, "a", 1)
            huge = asyncio.create_task(engine.update(RowBatch("a", None, np.full((1, 8), 3e38)), [0], 1))
            await queued(engine, 2)
            gate.opened.set()
            await asyncio.to_thread(apply.entered.wait, 60)
            second = learning(engine, "b", 2)
            await queued(engine, 2)
            apply.opened.set()
            with pytest.raises(NonFiniteUpdate):
                await huge
            answers = await asyncio.gather(*first, *second)
            await holding
            writer = await asyncio.to_thread(engine.stop)
            refusals = [
                (sequence, head["sequence"]) for sequence, _, head in writer.transaction_log.journal.heads({REFUSAL})
            ]
            assert refusals == [(9, 6)]
            return writer.store.digest(), [int(str(answer["sequence"])) for answer in answers]

    with tempfile.TemporaryDirectory() as folder:
        digest, sequences = asyncio.run(scenario(Path(folder)))
        assert sequences == [5, 7, 8]
        with DataDirectory(Path(folder)) as directory:
            store, _ = recover(directory.snapshots, directory.transaction_log(), "cpu")
            assert store.digest() == digest


def test_inference_sees_whole_updates_only() -> None:
    """Every answer under load is one that the same updates give when nothing else happens."""

    async def scenario() -> None:
        targets = [0, 1, 2, 0, 1, 2]
        reference, allowed = make_store(), []
        from superposed import learn

        for _ in range(21):
            allowed.append((reference.sequence, reference.logits(reference.batch("a", X)).numpy()))
            learn(reference, "b", X, targets, steps=3)
        async with running(make_store()) as engine:

            async def updates() -> None:
                for _ in range(20):
                    await engine.update(RowBatch("b", None, X), targets, 3)

            writing = asyncio.create_task(updates())
            answers = []
            while not writing.done():
                answers.append(await engine.infer(RowBatch("a", None, X)))
            await writing
        assert len(answers) > 5
        by_sequence = dict(allowed)
        for answer in answers:
            np.testing.assert_allclose(answer.logits, by_sequence[answer.sequence], rtol=1e-5, atol=1e-6)

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_a_timed_out_update_is_not_applied() -> None:
    async def scenario() -> None:
        store = make_store()
        async with running(store, queue_requests=2, request_timeout_s=0.2) as engine:
            gate, holding = await held(engine)
            waiting = learning(engine, "a", 2)
            await queued(engine, 2)
            with pytest.raises(Overloaded):
                await engine.infer(RowBatch("a", None, X))
            results = await asyncio.gather(*waiting, holding, return_exceptions=True)
            assert [type(result) for result in results] == [DeadlineExceeded] * 3
            gate.opened.set()
            answer = None
            while answer is None:  # a slow machine may need longer than the limit
                with contextlib.suppress(DeadlineExceeded, Overloaded):
                    answer = await engine.infer(RowBatch("a", None, X))
            assert answer.sequence == 4

    asyncio.run(scenario())


def test_a_client_that_left_costs_nothing() -> None:
    async def scenario() -> None:
        async with running(make_store()) as engine:
            gate, holding = await held(engine)
            left = asyncio.create_task(engine.update(RowBatch("a", None, X[:1]), [0], 1))
            await queued(engine, 1)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            gate.opened.set()
            await holding
            assert (await engine.infer(RowBatch("a", None, X))).sequence == 4

    asyncio.run(scenario())


def test_stopping_finishes_what_was_admitted_and_admits_no_more() -> None:
    async def scenario() -> None:
        async with prepared(make_store()) as engine:
            with pytest.raises(NotReady):
                await engine.infer(RowBatch("a", None, X))
            engine.start()
            gate, holding = await held(engine)
            waiting = [asyncio.create_task(engine.update(RowBatch("a", None, X[:1]), [0], 1)) for _ in range(3)]
            await queued(engine, 3)
            stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
            await until(lambda: not engine.ready)
            with pytest.raises(NotReady):
                await engine.infer(RowBatch("a", None, X))
            gate.opened.set()
            assert (await stopping).store.sequence == 7
            assert [result["sequence"] for result in await asyncio.gather(*waiting)] == [5, 6, 7]
            await holding

    asyncio.run(scenario())


def test_a_bug_in_one_job_does_not_end_the_engine() -> None:
    async def scenario() -> None:
        async with running(make_store()) as engine:
            with pytest.raises(ZeroDivisionError):
                await engine.call(lambda store: 1 / 0)
            assert engine.ready
            assert (await engine.infer(RowBatch("a", None, X))).sequence == 4

    asyncio.run(scenario())


def test_a_batch_may_wait_to_fill_up() -> None:
    async def scenario() -> None:
        async with running(make_store(), batch_wait_ms=300, batch_rows=12) as engine:
            await asyncio.gather(*(engine.infer(RowBatch(key, None, X)) for key in "ab"))
            started = time.monotonic()
            await engine.infer(RowBatch("a", None, X))
            assert time.monotonic() - started >= 0.29

    asyncio.run(scenario())


class Attributing:
    """A poison detector that attributes after every update until it is told to stop."""

    def __init__(self) -> None:
        self.steps, self.stop, self.attributing = 0, threading.Event(), False

    def observe(self, store: WeightStore, record: Record, change: PreparedChange, error: Exception | None) -> None:
        self.attributing = True

    def attribute(self) -> list[Quarantine]:
        self.steps += 1
        self.attributing = not self.stop.is_set()
        return []


def test_reads_are_answered_while_the_detector_attributes_and_updates_wait() -> None:
    async def scenario() -> None:
        store, detector = make_store(), Attributing()
        with tempfile.TemporaryDirectory() as folder, DataDirectory(Path(folder)) as directory:
            begin(directory, store)
            engine = Engine(Writer(store, directory.transaction_log(), detector=detector), Settings())  # type: ignore[arg-type]
            engine.start()
            try:
                rows = RowBatch("a", None, X)
                await engine.update(rows, [0] * 6, 1)
                for _ in range(3):
                    await engine.infer(rows)
                assert engine._writer.attributing
                waiting = asyncio.create_task(engine.update(rows, [0] * 6, 1))
                await engine.infer(rows)
                steps = detector.steps
                while detector.steps == steps:
                    await asyncio.sleep(0.001)
                assert not waiting.done()
                assert store.sequence == 5
                detector.stop.set()
                assert (await waiting)["sequence"] == 6
            finally:
                await asyncio.to_thread(engine.stop)

    asyncio.run(scenario())


class Answered:
    """Notes which thread answered how many rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: WeightStore) -> None:
        self.batches: list[tuple[str, int]] = []
        plain = store.logits

        def noted(batch: Batch) -> object:
            self.batches.append((threading.current_thread().name, len(batch)))
            return plain(batch)

        monkeypatch.setattr(store, "logits", noted)


async def warmed(engine: Engine, keys: str = "abcd") -> None:
    """Ask each context once, so that the event loop may answer it: the engine thread derives it."""
    for key in keys:
        await engine.infer(RowBatch(key, None, X[:1]))
    await idle(engine)


@asynccontextmanager
async def warm() -> AsyncIterator[tuple[WeightStore, Engine]]:
    """An engine whose event loop has all contexts at hand."""
    store = make_store()
    async with running(store) as engine:
        await warmed(engine)
        yield store, engine


def test_small_batches_are_answered_on_the_event_loop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = make_store()
        expected = {key: store.logits(store.batch(key, X)).numpy() for key in "abcd"}
        async with running(store) as engine:
            answered = Answered(monkeypatch, store)
            answers = await asyncio.gather(*(engine.infer(RowBatch(key, None, X)) for key in "abcdab"))
            assert answered.batches == [("MainThread", 36)]
            for key, answer in zip("abcdab", answers, strict=True):
                np.testing.assert_allclose(answer.logits, expected[key], rtol=1e-5, atol=1e-6)
            with pytest.raises(UnknownTask):
                await engine.infer(RowBatch("nobody", None, X))

    asyncio.run(scenario())


def test_what_costs_more_or_comes_while_the_engine_works_is_answered_on_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        store = make_store()
        monkeypatch.setattr(store, "answer_seconds", lambda rows: rows / 16_000)  # 16 take a millisecond
        engines, loops = "superposed-engine", "MainThread"
        async with running(store) as engine:
            answered = Answered(monkeypatch, store)
            await warmed(engine)
            assert answered.batches == [(engines, 1)] * 4  # contexts that are derived
            answered.batches.clear()
            await engine.infer(RowBatch("a", None, np.repeat(X, 3, axis=0)))
            await idle(engine)
            await engine.infer(RowBatch("a", None, X))
            await engine.infer(RowBatch(None, ["a", "b"], X[:2]))
            await idle(engine)
            assert answered.batches == [(engines, 18), (loops, 6), (engines, 2)]
            answered.batches.clear()
            small = [asyncio.create_task(engine.infer(RowBatch("b", None, X[:1]))) for _ in range(40)]
            await asyncio.gather(*small)
            assert answered.batches == [(loops, 16), (loops, 16), (loops, 8)]
            answered.batches.clear()
            ones = [RowBatch("b", None, X[:1])] * 20
            among = [*ones, RowBatch("a", None, np.repeat(X, 4, axis=0)), *ones]
            await asyncio.gather(*(engine.infer(rows) for rows in among))
            inline = [rows for thread, rows in answered.batches if thread == loops]
            assert inline
            assert max(inline) <= 16
            assert sum(rows for _, rows in answered.batches) == 64

    asyncio.run(scenario())


def test_the_event_loop_does_not_ask_again_and_again_while_the_engine_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with warm() as (store, engine):
            answered = Answered(monkeypatch, store)
            tried, plain = [], engine._executor._answer_here
            monkeypatch.setattr(engine._executor, "_answer_here", lambda loop: (tried.append(loop), plain(loop)))
            gate, holding = await held(engine)
            waiting = [asyncio.create_task(engine.infer(RowBatch("a", None, X))) for _ in range(3)]
            await queued(engine, 3)
            assert len(tried) <= 3
            assert not any(task.done() for task in waiting)
            gate.opened.set()
            await asyncio.gather(*waiting, holding)
            assert answered.batches == [("superposed-engine", 18)]

    asyncio.run(scenario())


def test_a_bug_in_a_batch_ends_neither_the_event_loop_nor_a_request_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with warm() as (store, engine):
            with monkeypatch.context() as patch:
                patch.setattr(engine._telemetry, "answered", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    await engine.infer(RowBatch("a", None, X))
            with monkeypatch.context() as patch:
                patch.setattr(store, "batch_each", lambda *_: 1 / 0)
                both = await asyncio.gather(*(engine.infer(RowBatch(key, None, X)) for key in "ab"))
            assert [answer.sequence for answer in both] == [4, 4]

    asyncio.run(scenario())


@pytest.mark.parametrize("settings", [{"batch_wait_ms": 1}, {}])
def test_a_slow_network_or_a_batch_that_waits_never_holds_the_event_loop_up(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    async def scenario() -> None:
        store = make_store()
        monkeypatch.setattr(store, "answer_seconds", lambda rows: 1.0 if not settings else 1e-6)
        async with running(store, **settings) as engine:
            await warmed(engine, "a")
            answered = Answered(monkeypatch, store)
            await engine.infer(RowBatch("a", None, X[:1]))
        assert answered.batches == [("superposed-engine", 1)]

    asyncio.run(scenario())
