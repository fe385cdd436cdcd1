"""`superposed bench`: a load for a running server, and how it was served."""

from superposed_service.bench.load import Load, Outcome, run
from superposed_service.bench.report import as_json, show

__all__ = ["Load", "Outcome", "as_json", "run", "show"]
