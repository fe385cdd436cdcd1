"""Fair shares, and how long one would wait."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from concurrent.futures import Future

import numpy as np
import pytest

from superposed_service.changes.rows import RowBatch
from superposed_service.engine.request_queues import (
    ANYONE,
    FairQueue,
    RequestMetadata,
    RequestQueues,
    ServiceTimeModel,
    current_request,
)
from superposed_service.engine.telemetry import RequestTiming
from superposed_service.engine.work import InferenceRequest, Job
from superposed_service.errors import DeadlineExceeded, Overloaded
from superposed_service.settings import Settings


def push(queue: FairQueue[str], source: str, *sizes: int) -> None:
    for number, size in enumerate(sizes):
        queue.push(f"{source}{number}", source, size, math.inf)


def drain(queue: FairQueue[str], count: int) -> list[str]:
    return [queue.pop().work for _ in range(count)]


class TestFairQueue:
    def test_one_source_is_served_in_order(self) -> None:
        queue: FairQueue[str] = FairQueue()
        push(queue, "a", 9, 1, 5, 1)
        assert drain(queue, 4) == ["a0", "a1", "a2", "a3"]

    def test_whoever_comes_late_with_little_waits_behind_nobodys_flood(self) -> None:
        queue: FairQueue[str] = FairQueue()
        push(queue, "flood", *[1] * 100)
        drain(queue, 10)
        push(queue, "b", 1, 1)
        assert set(drain(queue, 4)) == {"flood10", "b0", "flood11", "b1"}

    def test_shares_are_of_work_not_of_requests(self) -> None:
        queue: FairQueue[str] = FairQueue()
        push(queue, "large", *[64] * 100)
        push(queue, "small", *[1] * 1000)
        served = Counter(work[:5] for work in drain(queue, 300))
        assert 64 * served["large"] == pytest.approx(served["small"], abs=64)

    def test_a_pause_earns_no_credit(self) -> None:
        queue: FairQueue[str] = FairQueue()
        push(queue, "a", *[1] * 50)
        drain(queue, 40)
        push(queue, "b", *[1] * 20)
        assert Counter(work[0] for work in drain(queue, 20)) == {"a": 10, "b": 10}

    def test_what_is_dropped_is_gone_and_counts_no_more(self) -> None:
        queue: FairQueue[str] = FairQueue()
        push(queue, "a", 3, 3, 3)
        push(queue, "b", 2)
        newest = queue.newest_of_largest(than="b")
        assert newest is not None
        assert newest.work == "a2"
        queue.drop([newest])
        assert (len(queue), queue.size, queue.count("a")) == (3, 8, 2)
        assert queue.newest_of_largest(than="b") is None
        assert sorted(drain(queue, 3)) == ["a0", "a1", "b0"]
        assert not queue

    def test_nobody_pays_for_what_is_dropped(self) -> None:
        queue: FairQueue[str] = FairQueue()
        push(queue, "a", 1, 50, 1)
        push(queue, "b", 10, 10)
        queue.drop([place for place in queue if place.size == 50])
        push(queue, "a", 1)
        assert drain(queue, 5) == ["a0", "a2", "a0", "b0", "b1"]

    def test_the_wait_counts_of_others_only_what_goes_first(self) -> None:
        queue: FairQueue[str] = FairQueue(turn_size=10)
        for size in (10, 20) * 20:
            queue.service_time.note(size, 0.001 * size)
        push(queue, "flood", *[10] * 50)
        assert queue.wait_s("flood", 10) == pytest.approx(0.51, rel=0.01)
        assert queue.wait_s("b", 10) == pytest.approx(0.02, rel=0.01)


class TestPace:
    def test_fixed_and_growing_parts_are_told_apart(self) -> None:
        service_time, draw = ServiceTimeModel(), np.random.default_rng(0)
        for _ in range(200):
            size = int(draw.integers(1, 1000))
            service_time.note(size, 0.003 + 2e-5 * size + draw.normal(scale=1e-4))
        assert service_time.seconds(1, 1) == pytest.approx(0.003, rel=0.1)
        assert service_time.seconds(10, 10_000) == pytest.approx(0.23, rel=0.05)

    def test_too_little_is_no_reason_to_refuse_anybody(self) -> None:
        service_time = ServiceTimeModel()
        service_time.note(1, 5.0)  # a first turn that had to warm up
        assert service_time.seconds(100, 100) == 0.0

    def test_one_long_turn_does_not_count_for_all(self) -> None:
        service_time = ServiceTimeModel()
        for _ in range(100):
            service_time.note(1, 0.001)
        service_time.note(1, 10.0)
        assert service_time.seconds(1, 1) < 0.002
        for _ in range(100):
            service_time.note(1, 0.004)  # but what stays so is believed
        assert service_time.seconds(1, 1) == pytest.approx(0.004, rel=0.1)


class TestLines:
    @pytest.fixture
    def lines(self) -> RequestQueues:
        lines = RequestQueues(Settings(queue_requests=4, queue_delay_ms=100))
        for _ in range(30):
            lines.jobs.service_time.note(1, 0.04)
        return lines

    def job(self) -> Job[int]:
        return Job(lambda _: 1)

    def test_what_would_wait_too_long_is_refused_at_once(self, lines: RequestQueues) -> None:
        for _ in range(2):
            lines.join(self.job(), RequestMetadata("a"), 0)
        with pytest.raises(Overloaded, match="too late") as caught:
            lines.join(self.job(), RequestMetadata("a"), 0)
        assert caught.value.retry_after_s == pytest.approx(0.12)
        lines.join(self.job(), RequestMetadata("b"), 0)  # who has nothing in line may always join
        with pytest.raises(Overloaded):
            lines.join(self.job(), RequestMetadata("b"), 3)  # what is committed goes first as well

    def test_the_service_itself_has_a_share(self, lines: RequestQueues) -> None:
        """A flood on a server without keys does not keep snapshots out of the line."""
        for _ in range(2):
            lines.join(self.job(), RequestMetadata(ANYONE), 0)
        with pytest.raises(Overloaded):
            lines.join(self.job(), RequestMetadata(ANYONE), 0)
        lines.join(self.job(), current_request(), 0)

    def test_a_deadline_that_cannot_be_met_is_refused_at_once(self, lines: RequestQueues) -> None:
        import time

        lines.join(self.job(), RequestMetadata("a"), 0)
        with pytest.raises(Overloaded, match="too late"):
            lines.join(self.job(), RequestMetadata("a", time.monotonic() + 0.02), 0)

    def test_the_source_with_most_gives_way(self) -> None:
        lines = RequestQueues(Settings(queue_requests=4))
        jobs = [self.job() for _ in range(4)]
        for job in jobs:
            lines.join(job, RequestMetadata("flood"), 0)
        with pytest.raises(Overloaded, match="too many"):
            lines.join(self.job(), RequestMetadata("flood"), 0)
        lines.join(self.job(), RequestMetadata("b"), 0)
        assert isinstance(jobs[-1].future.exception(), Overloaded)
        assert [job.future.done() for job in jobs] == [False, False, False, True]
        assert len(lines) == 4

    def test_reads_give_way_on_their_own_loop(self) -> None:
        async def scenario() -> None:
            loop = asyncio.get_running_loop()
            lines = RequestQueues(Settings(queue_requests=2))
            ticket = RequestTiming(0.0, "", None)
            reads = [
                InferenceRequest(RowBatch("a", None, [[1.0]]), loop.create_future(), loop, ticket) for _ in range(3)
            ]
            for read in reads[:2]:
                lines.join(read, RequestMetadata("flood"), 0)
            lines.join(reads[2], RequestMetadata("b"), 0)
            with pytest.raises(Overloaded):
                await reads[1].future
            assert lines.next_read(8, first=True) in (reads[0], reads[2])

        asyncio.run(scenario())

    def test_what_is_late_is_told_so_and_not_done(self) -> None:
        lines = RequestQueues(Settings())
        late, good = self.job(), self.job()
        lines.join(late, RequestMetadata("a", 0.0), 0)
        lines.join(good, RequestMetadata("a"), 0)
        assert lines.next_jobs(8, lambda _: True) == [good]
        assert isinstance(late.future.exception(), DeadlineExceeded)

    def test_a_client_that_leaves_at_the_same_moment_does_no_harm(self) -> None:
        class Raced(Future[int]):
            """Cancelled by another thread just after somebody asked whether it is done."""

            def done(self) -> bool:
                was_done = super().done()
                self.cancel()
                return was_done

        lines = RequestQueues(Settings())
        gone = self.job()
        gone.future.cancel()
        for job in (gone, raced := Job(lambda _: 1, future=Raced())):
            lines.join(job, RequestMetadata("a", 0.0), 0)
        assert lines.next_jobs(8, lambda _: True) == []
        assert isinstance(raced.future.exception(), DeadlineExceeded)
