"""Bodies about the store as a whole, and problems."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["CapacityBody", "InterferenceBody", "ProblemBody", "StoreBody"]


class StoreBytes(BaseModel):
    """Memory, in bytes."""

    weights: int
    optimizer: int
    contexts_cached: int
    kept_rows: int


class JournalBody(BaseModel):
    """The journal: what a recovery would replay, and whether it can be written."""

    horizon: int = Field(description="The sequence number before the oldest record.")
    sequence: int
    records_since_snapshot: int
    failure: str | None = Field(description="Why nothing is learned until the next start.")
    lineage: str = Field(description="The store's identity: the same in every copy, export and backup.")
    incarnation: str | None = Field(description="The serving process: another one at each start.")


class RecoveryBody(BaseModel):
    """Recovery of the store when the service was started."""

    snapshot: str
    replayed: int
    fingerprint_changed: bool = Field(
        description="The replayed records were first applied by other arithmetic: equal only to rounding."
    )
    rules_changed: bool = Field(
        description="Whether a release with other rules of learning wrote the records: the store follows this"
        " release's rules now, and no rollback reaches past that."
    )
    damaged: list[str] = Field(description="Newer snapshots that could not be read.")


class StoreBody(BaseModel):
    """`GET /v1/store`."""

    family: str
    network: dict[str, Any]
    derivation_version: int
    limits: dict[str, float]
    optimizer: dict[str, Any]
    device: str
    dtype: str
    sequence: int
    tasks: int
    bytes: StoreBytes
    rehearsal: dict[str, float] = Field(description="Which rows are kept, and how many go with new ones.")
    fingerprint: dict[str, Any]
    journal: JournalBody
    recovery: RecoveryBody


class LayerBody(BaseModel):
    """Crosstalk of one layer."""

    name: str
    crosstalk_predicted: float
    crosstalk_measured: float


class TasksLeftBody(BaseModel):
    """Number of further tasks like these that fit before the mean accuracy falls by `accuracy_drop`."""

    estimate: int
    low: int
    high: int
    accuracy_drop: float


class CapacityBody(BaseModel):
    """`GET /v1/capacity`: from this store's own measurements."""

    tasks: int
    layers: list[LayerBody]
    mean_accuracy: float | None = None
    tasks_left: TasksLeftBody | None = None


class InterferenceBody(BaseModel):
    """`GET /v1/interference`: matrices over the tasks, in the order asked for."""

    tasks: list[str]
    overlap: list[list[float]] = Field(
        description="Cosine between contexts, mean over layers: 1 if equal, near 0 if independent."
    )
    crosstalk: list[list[float] | None] = Field(
        description="Energy of the response to each task's rows under every context, relative to its own; "
        "null for a task of which no rows are kept."
    )


class ProblemBody(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="`urn:superposed:problem:<slug>`; docs/http-api.md lists the slugs.")
    title: str
    status: int
    detail: str
    instance: str
    expected: str | int | float | None = None
    received: str | int | float | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:superposed:problem:shape-mismatch",
                    "title": "Shape mismatch",
                    "status": 422,
                    "detail": "rows of the wrong width for task digits",
                    "instance": "/v1/infer",
                    "expected": "64 features",
                    "received": 63,
                }
            ]
        }
    )
