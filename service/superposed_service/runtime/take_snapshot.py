"""Snapshots of a running service."""

from superposed_service.changes.snapshot import keep, trim_some
from superposed_service.engine.writer import Writer
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Snapshot


def take(writer: Writer, directory: DataDirectory, settings: Settings) -> Snapshot:
    """Take a snapshot at once, on the thread that owns the store."""
    image = writer.image()
    snapshot, needed = keep(directory.snapshots, image, settings.history_records)
    writer.kept(image, snapshot.digest)
    while trim_some(writer.transaction_log, needed):
        pass
    return snapshot
