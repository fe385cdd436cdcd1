"""The sole owner of the store: queue in, batch out, journal, apply.

One thread at a time touches torch: the engine thread, or for a small batch the event loop
(`inference_executor.py`). Requests wait in two queues: inference requests, and jobs (updates, evaluations,
registry changes, snapshots); `request_queues.py` admits them.

Each turn answers one mixed batch of inference requests, up to `batch_rows`. Then it applies one committed change,
runs one job, or lets the poison detector take one step: neither kind waits for more than one of the other.

Updates that wait together are committed to the journal together by a second thread, before the first of them is
applied. Inference never sees half an update, because nothing else touches the store while one is applied.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

from superposed.contexts import as_expression, flatten
from superposed.errors import UpdateError, check_most
from superposed.learning.online import measure_batch
from superposed.store.losses import Measured
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Target, Targets, read_targets
from superposed_service.changes.base import Change, JsonObject
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.update import Update
from superposed_service.engine.batcher import InferenceResult
from superposed_service.engine.inference_executor import InferenceExecutor
from superposed_service.engine.replication import Replication
from superposed_service.engine.request_queues import RequestMetadata, RequestQueues, current_request
from superposed_service.engine.work import InferenceRequest, Job, PendingWrite, Reply, Work, resolve
from superposed_service.engine.writer import Writer
from superposed_service.errors import DeadlineExceeded, NotFresh, NotReady, Quarantined
from superposed_service.observability.request_ids import least_sequence, sequence_seen
from superposed_service.settings import Settings
from superposed_service.storage.idempotency import IdempotencyKey

T = TypeVar("T")


class Engine:
    """Runs a store on a thread of its own. From `start` to `stop` nothing else uses the writer."""

    def __init__(self, writer: Writer, settings: Settings) -> None:
        self._writer = writer
        self._telemetry = writer.telemetry
        self._settings = settings
        self.replication = Replication(settings.sync_followers)  # what the followers of this server have
        self._queues = RequestQueues(settings)
        self._wake = threading.Condition()
        self._executor = InferenceExecutor(writer, self._queues, self._wake, settings, self._is_idle)
        self._stopping = False
        self._journalling = ThreadPoolExecutor(1, "superposed-journal")
        self._thread = threading.Thread(target=self._loop, name="superposed-engine", daemon=True)

    def start(self) -> None:
        """Begin to work off the queues."""
        self._executor.measure()
        self._thread.start()

    def stop(self) -> Writer:
        """Stop admitting, finish what was admitted, and give the store back. Blocks until done."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        with self._executor.turn:  # a batch that the event loop has taken is answered
            pass
        self._journalling.shutdown()
        return self._writer

    @property
    def ready(self) -> bool:
        """True if requests are admitted."""
        return self._thread.is_alive() and not self._stopping

    @property
    def crashed(self) -> bool:
        """True if its thread ended without being stopped: nothing is answered any more."""
        return not (self._thread.is_alive() or self._stopping)

    @property
    def waiting(self) -> tuple[int, int]:
        """Numbers of waiting inference requests, and of other requests."""
        return len(self._queues.reads), len(self._queues.jobs)

    @property
    def sequence(self) -> int:
        """Sequence number of the newest record that is applied."""
        return self._writer.store.sequence

    @property
    def failure(self) -> str | None:
        """Reason why nothing is learned until the next start, though inference goes on; or None."""
        return self._writer.transaction_log.failure

    @property
    def snapshot_due(self) -> bool:
        """True if a recovery would replay more records, or bytes of rows, than the settings allow."""
        writer, settings = self._writer, self._settings
        many = writer.records_since_snapshot >= settings.snapshot_records
        return many or writer.bytes_since_snapshot >= settings.snapshot_bytes

    # Called on the event loop

    async def infer(self, rows: RowBatch) -> InferenceResult:
        """Answer rows, in one mixed batch with whatever else is waiting.

        Raise `SuperposedError` where the rows or contexts cannot be used, or the service cannot answer now.
        """
        future: asyncio.Future[InferenceResult] = asyncio.get_running_loop().create_future()
        inline = self._executor.is_inline(rows)
        timer = self.infer_soon(rows, future, current_request(), inline=inline)  # half the cost of `asyncio.timeout`
        try:
            result = await future
        finally:
            timer.cancel()
        if result.sequence < (least := least_sequence.get()):
            raise NotFresh("this server's store went back meanwhile", expected=least, received=result.sequence)
        return result

    def answers_soon(self, rows: RowBatch) -> bool:
        """Return True if the event loop may answer rows now, without the engine's thread."""
        return self._is_idle() and self._executor.is_inline(rows)

    def infer_soon(
        self, rows: RowBatch, reply: Reply[InferenceResult], caller: RequestMetadata, *, inline: bool
    ) -> asyncio.TimerHandle:
        """Have a reply get what `infer` returns or raises; only on the event loop, which may answer `inline` rows.

        Return the timer of its `DeadlineExceeded`, to be cancelled. Raises as `infer`, where the rows cannot wait.
        """
        loop = asyncio.get_running_loop()
        read = InferenceRequest(rows, reply, loop, self._telemetry.start_timing(), inline)
        limit_s = self._admit(read, caller)
        return loop.call_later(limit_s, _expire, read, limit_s)

    async def update(
        self,
        rows: RowBatch,
        targets: Sequence[Target] | Targets,
        steps: int | None,
        idempotency_key: IdempotencyKey | None = None,
        author: str | None = None,
        *,
        grow_labels: bool = False,
        standby: bool = False,
        weights: Sequence[float] | None = None,
    ) -> JsonObject:
        """Apply one update and answer what the model knew before it; raises as `change`."""
        steps = self._writer.store.config.optimizer.steps if steps is None else steps
        check_most("more steps than one update may have", steps, self._settings.max_steps)
        update = Update(rows, targets, steps, grow_labels=grow_labels, weights=weights, standby=standby)
        return await self.change(update, idempotency_key, author)

    async def change(
        self, change: Change, key: IdempotencyKey | None = None, author: str | None = None, *, limited: bool = True
    ) -> JsonObject:
        """Journal a change and apply it. When it returns, the change is on the disk.

        The author is an API key's id. A change that is not `limited` may take longer than a request may wait.

        Raises:
            UpdateError: Refused by the arithmetic; the store is as it was, and the refusal is recorded.
            IdempotencyMismatch: The origin's key came with another request.
            IdempotencyInFlight: The same request is being worked on.
            NotLeader: This server follows another one.
            TooFewFollowers: Too few followers can be reached.
            StorageUnavailable: The disk refused; whether the change counts is known after the next start.
            SuperposedError: As `infer`.
        """
        turn = self.check_leads()
        change.author = author
        write = PendingWrite(change, key, self._telemetry.start_timing())
        limit_s = self._admit(write)
        try:
            answer = await _answer(write.future, limit_s if limited else None)
        except (UpdateError, Quarantined):  # recorded too
            await self.replicated(turn)
            raise
        await self.replicated(turn)
        return answer

    def check_leads(self) -> int:
        """Return the turn of this leader, which `replicated` takes.

        Raise `NotLeader` where this server follows another one, `TooFewFollowers` where too few can be reached.
        """
        self._writer.transaction_log.epochs.check_open()
        self.replication.check()
        return self.replication.turn

    async def replicated(self, turn: int) -> None:
        """Wait until enough followers have on their disks what is here, API keys too; raises as `change`."""
        sequence, keys = self.sequence, self._writer.transaction_log.api_keys.digest
        if self.replication.needed:
            await self.replication.wait(turn, sequence, keys)
        sequence_seen.set(sequence)

    async def evaluate(self, rows: RowBatch, targets: Sequence[Target]) -> Measured:
        """Measure loss and accuracy; nothing is learned. Raises as `infer`."""

        def run(store: WeightStore) -> Measured:
            batch = rows.batch(store)
            return measure_batch(store, batch, read_targets(batch, targets, store.config.network.outputs))

        return await self.call(run, size=len(rows))

    async def call(self, run: Callable[[WeightStore], T], *, size: int = 1) -> T:
        """Run what changes nothing on the engine's thread, in its turn among the updates.

        `size` is the number of rows that it answers, where it answers any: what its turn costs.
        """
        return await self.call_writer(lambda writer: run(writer.store), size=size)

    async def call_writer(self, run: Callable[[Writer], T], *, size: int = 1) -> T:
        """Run anything else on the engine's thread, in its turn among the updates; `size` as for `call`."""
        job = Job(run, max(1, size))
        limit_s = self._admit(job)
        return await _answer(job.future, limit_s)

    def schema_of(self, context: object) -> TaskSchema:
        """Return the schema of a context's heaviest part, which says how its rows are read.

        Read at this moment, outside of any turn. Raise `ContextError` for no context, or a task that is not registered.
        """
        text = context if isinstance(context, str) else str(as_expression(context))
        return self._writer.store.tasks.get(_heaviest(text)).schema

    def check_room(self, *, reads: bool) -> None:
        """Check the estimated wait of inference (`reads`) or other work; raises as `RequestQueues.check_wait`."""
        self._queues.check_wait(current_request(), self._writer.pending, reads=reads)

    def _admit(self, work: Work, caller: RequestMetadata | None = None) -> float:
        """Put work in its line, and say how many seconds it may take."""
        caller = caller or current_request()
        with self._wake:
            if not self.ready:
                raise NotReady("the service is starting or stopping")
            self._queues.join(work, caller, self._writer.pending)
            if not (isinstance(work, InferenceRequest) and self._executor.soon(work.loop)):
                self._wake.notify()
        return caller.left_s(self._settings.request_timeout_s)

    # On the engine's thread

    def _loop(self) -> None:
        while self._wait():
            with self._executor.turn:
                self._take_turn()

    def _take_turn(self) -> None:
        started = time.monotonic()
        rows = self._executor.answer()
        if self._writer.finished:
            self._writer.finish()
        applied = 0
        if self._writer.attributing:
            if not self._writer.committing:  # it reads the journal
                self._writer.attribute()
        else:
            self._run_or_commit()
            applied = self._writer.apply_next(attribute=False) if self._writer.pending else 0
        seconds = time.monotonic() - started
        with self._wake:
            if rows:
                self._queues.reads.service_time.note(rows, seconds)
            if applied:
                self._queues.jobs.service_time.note(applied, seconds)

    def _wait(self) -> bool:
        """Wait for something to do; False once there is nothing left and will not be."""
        with self._wake:
            while not (busy := bool(self._queues.reads) or self._has_other_work()) and (
                self._writer.committing or not self._stopping
            ):
                self._wake.wait()
            return busy

    def _is_idle(self) -> bool:
        return not (self._stopping or self._has_other_work())

    def _has_other_work(self) -> bool:
        attributing = self._writer.attributing and not self._writer.committing
        ready = self._writer.pending or self._writer.finished or attributing
        return bool(ready or (self._queues.jobs and not self._writer.committing))

    def _landed(self, _: Future[Any]) -> None:
        with self._wake:
            self._wake.notify()

    def _run_or_commit(self) -> None:
        """Run the next job, or begin to commit the next changes: updates that stand in line together."""
        with self._wake:
            group = self._queues.next_jobs(self._settings.commit_records, self._writer.may_begin)
        writes = [work for work in group if isinstance(work, PendingWrite)]
        if writes and (journalled := self._writer.begin(writes, self._journalling)) is not None:
            journalled.add_done_callback(self._landed)
        for work in group:
            if isinstance(work, Job) and work.future.set_running_or_notify_cancel():
                resolve(work.future, partial(work.run, self._writer))


@lru_cache(maxsize=4096)
def _heaviest(context: str) -> str:
    return max(flatten(as_expression(context)), key=lambda leaf: leaf.weight).key


def _expire(read: InferenceRequest, limit_s: float) -> None:
    if not read.future.done():
        read.future.set_exception(_late(limit_s, dropped=not read.begun))


async def _answer(future: Future[T], limit_s: float | None) -> T:
    try:
        # A request that times out, or whose client left, is dropped if it has not begun.
        async with asyncio.timeout(limit_s):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        raise _late(limit_s, dropped=future.cancelled()) from None


def _late(limit_s: float | None, *, dropped: bool) -> DeadlineExceeded:
    fate = "it was dropped" if dropped else "it had begun, and what it changes is changed"
    return DeadlineExceeded(f"no answer in time; {fate}", expected=f"within {limit_s} s")
