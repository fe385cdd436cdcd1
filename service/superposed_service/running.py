"""A service that is up: its settings, its engine, and its data directory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from superposed_service.engine import Engine
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Snapshot

__all__ = ["Running"]


@dataclass(frozen=True)
class Running:
    """What a request is served by.

    Args:
        settings: How this server runs.
        engine: The sole owner of the store.
        directory: Where the store is kept.
    """

    settings: Settings
    engine: Engine
    directory: DataDirectory
    _snapshot_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def snapshot(self) -> Snapshot:
        """Takes a snapshot; inference goes on while it is written to the disk.

        When it returns, the snapshot is on the disk.

        Raises:
            StorageUnavailable: The disk refused.
        """
        async with self._snapshot_turn:
            data, sequence = await self.engine.call(lambda store: (store.to_bytes(), store.sequence))
            return await asyncio.to_thread(self.directory.snapshots.write, data, sequence=sequence)
