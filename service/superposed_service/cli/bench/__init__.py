"""`superposed bench`: a load for a running server, and how it was served."""

from superposed_service.cli.bench.load_generator import Load, Outcome, run
from superposed_service.cli.bench.report import as_json, show

__all__ = ["Load", "Outcome", "as_json", "run", "show"]
