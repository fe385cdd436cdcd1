"""The data directory: snapshots, journal, idempotency responses, API keys."""

from superposed_client.models import Snapshot
from superposed_service.storage.api_keys import ApiKey, ApiKeys
from superposed_service.storage.canaries import Canary
from superposed_service.storage.database import Statement
from superposed_service.storage.directory import DataDirectory
from superposed_service.storage.epochs import Position
from superposed_service.storage.journal import Entry, Journal, Record, Summary
from superposed_service.storage.shipping import Shipment
from superposed_service.storage.snapshots import Snapshots
from superposed_service.storage.transaction_log import TransactionLog

__all__ = ["ApiKey", "ApiKeys", "Canary", "DataDirectory", "Entry", "Journal", "Position", "Record", "Shipment"]
__all__ += ["Snapshot", "Snapshots", "Statement", "Summary", "TransactionLog"]
