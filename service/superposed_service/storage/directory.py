"""The data directory and its one owner."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from superposed.errors import ConfigError
from superposed_service.errors import StorageUnavailable, StoreLocked
from superposed_service.storage.snapshots import Snapshots

__all__ = ["DataDirectory"]


class DataDirectory:
    """A directory that one process at a time owns.

    On the disk: `LOCK` (held while open), `snapshots/`. The directory is readable by its owner alone: a
    snapshot holds the store's secret.

    Args:
        path: The directory; made where it does not exist.
        snapshots_kept: Newest snapshots that are kept.

    Raises:
        StoreLocked: Another process owns it.
        StorageUnavailable: It cannot be made or written.
    """

    def __init__(self, path: Path, *, snapshots_kept: int = 2) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageUnavailable(f"cannot use {path} as a data directory", received=str(error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StoreLocked(
                f"another process owns {path}: stop it first, or use another directory"
            ) from error
        self.snapshots = Snapshots(path / "snapshots", kept=snapshots_kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the directory up."""
        os.close(self._lock)

    def initialise(self, store: bytes) -> None:
        """Writes a new store's first snapshot.

        Raises:
            ConfigError: There is a store already.
        """
        if self.snapshots.list():
            raise ConfigError(f"{self.path} holds a store already", expected="an empty directory")
        self.snapshots.write(store, sequence=0)
