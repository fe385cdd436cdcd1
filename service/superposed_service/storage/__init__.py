"""What is on the disk: the data directory and its snapshots."""

from superposed_service.storage.directory import DataDirectory
from superposed_service.storage.snapshots import Snapshot, Snapshots

__all__ = ["DataDirectory", "Snapshot", "Snapshots"]
