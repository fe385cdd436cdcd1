"""Engines over small stores."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from experiments.plain import plain_config
from superposed import MLPConfig, TaskSchema, WeightStore, seeded_secret
from superposed_service.changes.snapshot import begin
from superposed_service.engine.engine import Engine
from superposed_service.engine.writer import Writer
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

__all__ = ["make_store", "prepared", "running"]


def make_store(family: str = "phase") -> WeightStore:
    config = plain_config(network=MLPConfig(inputs=8, hidden=(16,), outputs=3), family=family)  # type: ignore[arg-type]
    store = WeightStore(config, secret=seeded_secret(0))
    for key in "abcd":
        state, _ = store.register(TaskSchema(key=key, inputs=8, outputs=3))
        state.updates = 1  # a task that was not taught answers with the uniform distribution
    return store


@asynccontextmanager
async def prepared(store: WeightStore, **settings: object) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory() as folder, DataDirectory(Path(folder)) as directory:
        begin(directory, store)
        yield Engine(Writer(store, directory.transaction_log()), Settings(**settings))  # type: ignore[arg-type]


@asynccontextmanager
async def running(store: WeightStore, **settings: object) -> AsyncIterator[Engine]:
    async with prepared(store, **settings) as engine:
        engine.start()
        try:
            yield engine
        finally:
            await asyncio.to_thread(engine.stop)
