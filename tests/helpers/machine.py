"""A store with its journal, without HTTP: what the tests drive, crash and recover."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, StoreConfig, TaskSchema, WeightStore, seeded_secret
from superposed_client.models import RecoveryInfo
from superposed_service.api.app import open_store
from superposed_service.changes.base import Change, JsonObject
from superposed_service.changes.quarantine import Quarantine, Release
from superposed_service.changes.registration import Delete, Register
from superposed_service.changes.rollback import RollbackChange, Selection
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.snapshot import begin
from superposed_service.changes.update import Update
from superposed_service.engine.work import PendingWrite, resolve
from superposed_service.engine.writer import Writer
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Snapshot
from superposed_service.storage.idempotency import IdempotencyKey

CONFIG = plain_config(
    network=MLPConfig(inputs=4, hidden=(6,), outputs=2), optimizer=OptimizerConfig(learning_rate=1e-2)
)


def new_store() -> WeightStore:
    return WeightStore(CONFIG, secret=seeded_secret(3))


def schema(key: str) -> TaskSchema:
    return TaskSchema(key=key, inputs=4, outputs=2)


class Here(Executor):
    """Runs everything at once, on the caller's thread."""

    def submit(self, run: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        resolve(future, lambda: run(*arguments, **options))
        return future


def commit(writer: Writer, writes: Sequence[PendingWrite]) -> None:
    """Journal changes in one transaction, on this thread."""
    writer.begin(writes, Here())
    writer.finish()


class Machine:
    """One data directory, open."""

    def __init__(self, path: Path, *, config: StoreConfig = CONFIG, **settings: float) -> None:
        self.path = path
        self.settings = Settings(device="cpu", **settings)  # type: ignore[arg-type]
        if not path.exists():
            with DataDirectory(path) as directory:
                begin(directory, WeightStore(config, secret=seeded_secret(3)))
        self.directory: DataDirectory
        self.writer: Writer
        self.recovery: RecoveryInfo
        self.open()

    def open(self) -> None:
        self.directory = DataDirectory(self.path, snapshots_kept=self.settings.snapshots_kept)
        try:
            self.writer, self.recovery = open_store(self.directory, self.settings)
        except BaseException:
            self.directory.close()
            raise
        self.is_open = True

    @property
    def store(self) -> WeightStore:
        return self.writer.store

    def do(self, change: Change, idempotency_key: IdempotencyKey | None = None) -> JsonObject:
        [answer] = self.do_together([change], [idempotency_key])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def do_together(
        self, changes: Sequence[Change], origins: Sequence[IdempotencyKey | None] | None = None
    ) -> list[JsonObject | BaseException]:
        """Changes that stand in line together, in one transaction."""
        origins = origins or [None] * len(changes)
        writes = [
            PendingWrite(change, idempotency_key) for change, idempotency_key in zip(changes, origins, strict=True)
        ]
        commit(self.writer, writes)
        while self.writer.pending:
            self.writer.apply_next()
        return [write.future.exception() or write.future.result() for write in writes]

    def register(self, key: str) -> JsonObject:
        return self.do(Register(lambda _: schema(key)))

    def delete(self, key: str) -> JsonObject:
        return self.do(Delete(key))

    def update(self, context: object, rows: object, targets: list[int], key: str | None = None) -> JsonObject:
        idempotency_key = IdempotencyKey(key, b"0" * 32) if key else None
        return self.do(Update(RowBatch(context, None, rows), targets, 1), idempotency_key)

    def quarantine(self, source: str) -> JsonObject:
        return self.do(Quarantine(source, {"by": "test"}))

    def release(self, source: str) -> JsonObject:
        return self.do(Release(source))

    def roll_back(self, **selection: object) -> JsonObject:
        change = RollbackChange(Selection(**selection), self.directory.snapshots, self.writer.transaction_log)  # type: ignore[arg-type]
        return self.do(change)

    def snapshot(self) -> Snapshot:
        return self.writer.snapshot(self.directory.snapshots, self.settings.history_records)

    def crash(self) -> None:
        """Leave the files as kill -9 does, and open them again as another process."""
        image = self.path.with_name(f"{self.path.name}+")
        shutil.copytree(self.path, image)
        self.directory.close()
        shutil.rmtree(self.path)
        image.rename(self.path)
        self.open()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.directory.close()
