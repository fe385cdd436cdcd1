from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from superposed import MLPConfig, StoreConfig, TaskSchema, WeightStore, seeded_secret
from superposed.errors import CompositionNotSupported, UnknownTask
from superposed_service.engine import Engine
from superposed_service.errors import DeadlineExceeded, NotReady, Overloaded
from superposed_service.rows import Rows
from superposed_service.settings import Settings
from superposed_service.snapshotting import begin
from superposed_service.storage import DataDirectory
from superposed_service.writer import Writer

X = np.random.default_rng(0).normal(size=(6, 8))


def make_store(family: str = "phase") -> WeightStore:
    config = StoreConfig(network=MLPConfig(inputs=8, hidden=(16,), outputs=3), family=family)  # type: ignore[arg-type]
    store = WeightStore(config, secret=seeded_secret(0))
    for key in "abcd":
        store.register(TaskSchema(key=key, inputs=8, outputs=3))
    return store


@asynccontextmanager
async def prepared(store: WeightStore, **settings: object) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory() as folder, DataDirectory(Path(folder)) as directory:
        begin(directory, store)
        yield Engine(Writer(store, directory.ledger()), Settings(**settings))  # type: ignore[arg-type]


@asynccontextmanager
async def running(store: WeightStore, **settings: object) -> AsyncIterator[Engine]:
    async with prepared(store, **settings) as engine:
        engine.start()
        try:
            yield engine
        finally:
            await asyncio.to_thread(engine.stop)


class Gate:
    """Holds the engine's thread until it is opened, so that a test can see what queues up behind it."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, _: WeightStore) -> None:
        self.entered.set()
        assert self.opened.wait(10)


async def held(engine: Engine) -> tuple[Gate, asyncio.Task[None]]:
    gate = Gate()
    task = asyncio.create_task(engine.call(gate))
    await asyncio.to_thread(gate.entered.wait, 10)
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
            waiting = [asyncio.create_task(engine.infer(Rows(key, None, X[:2]))) for key in "abcdab"]
            await asyncio.sleep(0.05)
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
            waiting = [asyncio.create_task(engine.infer(Rows(text, None, X))) for text in contexts]
            await asyncio.sleep(0.05)
            gate.opened.set()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            await holding
        assert [type(result).__name__ for result in results] == [
            "Answer", UnknownTask.__name__, CompositionNotSupported.__name__, "Answer",
        ]  # fmt: skip

    asyncio.run(scenario())


def test_reads_and_updates_take_turns() -> None:
    async def scenario() -> None:
        store = make_store()
        async with running(store, batch_rows=1) as engine:
            gate, holding = await held(engine)
            order: list[str] = []

            async def note(name: str, work: object) -> None:
                await work  # type: ignore[misc]
                order.append(name)

            reads = [
                asyncio.create_task(note("read", engine.infer(Rows("a", None, X[:1])))) for _ in range(4)
            ]
            updates = [
                asyncio.create_task(note("update", engine.update(Rows("a", None, X[:1]), [0], 1)))
                for _ in range(4)
            ]
            await asyncio.sleep(0.05)
            gate.opened.set()
            await asyncio.gather(*reads, *updates, holding)
        assert order == ["read", "update"] * 4

    asyncio.run(scenario())


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
                    await engine.update(Rows("b", None, X), targets, 3)

            writing = asyncio.create_task(updates())
            answers = []
            while not writing.done():
                answers.append(await engine.infer(Rows("a", None, X)))
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
            waiting = [asyncio.create_task(engine.update(Rows("a", None, X[:1]), [0], 1)) for _ in range(2)]
            await asyncio.sleep(0.05)
            with pytest.raises(Overloaded):
                await engine.infer(Rows("a", None, X))
            results = await asyncio.gather(*waiting, holding, return_exceptions=True)
            assert all(isinstance(result, DeadlineExceeded) for result in results)
            gate.opened.set()
            answer = await engine.infer(Rows("a", None, X))
            assert answer.sequence == 4

    asyncio.run(scenario())


def test_a_client_that_left_costs_nothing() -> None:
    async def scenario() -> None:
        async with running(make_store()) as engine:
            gate, holding = await held(engine)
            left = asyncio.create_task(engine.update(Rows("a", None, X[:1]), [0], 1))
            await asyncio.sleep(0.05)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            gate.opened.set()
            await holding
            assert (await engine.infer(Rows("a", None, X))).sequence == 4

    asyncio.run(scenario())


def test_stopping_finishes_what_was_admitted_and_admits_no_more() -> None:
    async def scenario() -> None:
        async with prepared(make_store()) as engine:
            with pytest.raises(NotReady):
                await engine.infer(Rows("a", None, X))
            engine.start()
            gate, holding = await held(engine)
            waiting = [asyncio.create_task(engine.update(Rows("a", None, X[:1]), [0], 1)) for _ in range(3)]
            await asyncio.sleep(0.05)
            stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
            await asyncio.sleep(0.05)
            with pytest.raises(NotReady):
                await engine.infer(Rows("a", None, X))
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
            assert (await engine.infer(Rows("a", None, X))).sequence == 4

    asyncio.run(scenario())


def test_a_batch_may_wait_to_fill_up() -> None:
    async def scenario() -> None:
        async with running(make_store(), batch_wait_ms=300, batch_rows=12) as engine:
            await asyncio.gather(*(engine.infer(Rows(key, None, X)) for key in "ab"))
            started = time.monotonic()
            await engine.infer(Rows("a", None, X))
            assert time.monotonic() - started >= 0.29

    asyncio.run(scenario())
