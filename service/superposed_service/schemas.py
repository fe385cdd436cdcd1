"""The bodies of the native API, as they are documented and checked (see docs/http-api.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

__all__ = [
    "CapacityBody",
    "InferAnswer",
    "InferBody",
    "ProblemBody",
    "ReturnField",
    "SnapshotBody",
    "StoreBody",
    "TaskBody",
    "TaskPage",
    "TaskRegistration",
    "UpdateAnswer",
    "UpdateBody",
]

ReturnField = Literal["labels", "probabilities", "logits", "values"]

_CONTEXT_SCHEMA: dict[str, Any] = {
    "description": "A context: text (`digits`, `mix(a:0.7,b:0.3)`, `rot^1.25`) or its JSON form.",
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]},
        {"type": "object", "properties": {"mixture": {"type": "array"}}, "required": ["mixture"]},
        {"type": "object", "properties": {"power": {"type": "object"}}, "required": ["power"]},
    ],
}
# Contexts, numbers and targets are checked once, against the tasks, by the engine; here they just pass.
Context = Annotated[Any, WithJsonSchema(_CONTEXT_SCHEMA)]
Matrix = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "Rows of numbers, each as wide as its task.",
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
        }
    ),
]
Targets = Annotated[
    list[Any],
    WithJsonSchema(
        {
            "description": "One target a row: a label, a class index, or for mse one or several numbers.",
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "integer"},
                    {"type": "number"},
                    {"type": "array", "items": {"type": "number"}},
                ]
            },
        }
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _RowsBody(_Body):
    """Rows, and the context of all or of each of them."""

    context: Context = None
    contexts: Annotated[list[Any] | None, WithJsonSchema({"type": "array", "items": _CONTEXT_SCHEMA})] = None
    inputs: Matrix

    @model_validator(mode="after")
    def _one_context_form(self) -> Self:
        if (self.context is None) == (self.contexts is None):
            raise ValueError("give exactly one of context (one for all rows) and contexts (one per row)")
        return self


class InferBody(_RowsBody):
    """`POST /v1/infer`."""

    return_: list[ReturnField] | None = Field(
        None,
        alias="return",
        min_length=1,
        description="What to answer with; default labels and probabilities, for mse tasks values.",
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"context": "digits", "inputs": [[0.0, 5.0]], "return": ["labels"]}]}
    )


class InferAnswer(BaseModel):
    """What `POST /v1/infer` answers; row order kept, null where a field does not apply to a row's task."""

    sequence: int
    labels: list[str | int | None] | None = None
    probabilities: list[list[float] | None] | None = None
    logits: list[list[float]] | None = None
    values: list[list[float] | None] | None = None


class EvaluateBody(_RowsBody):
    """`POST /v1/evaluate`."""

    targets: Targets

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"context": "digits", "inputs": [[0.0, 5.0]], "targets": ["7"]}]}
    )


class UpdateBody(EvaluateBody):
    """`POST /v1/update`."""

    steps: int = Field(
        1, ge=1, strict=True, description="Optimizer steps on these rows: one record, whole or not."
    )


class EvaluateAnswer(BaseModel):
    """What `POST /v1/evaluate` answers."""

    rows: int
    loss: float
    accuracy: float | None = Field(None, description="Absent where no row belongs to a cross_entropy task.")


class UpdateAnswer(EvaluateAnswer):
    """What `POST /v1/update` answers: measured before the first step."""

    sequence: int


class TaskRegistration(_Body):
    """`POST /v1/tasks`: give labels, or the number of outputs."""

    key: str
    labels: list[Annotated[str, Field(max_length=256)]] | None = Field(None, min_length=1)
    outputs: int | None = Field(None, ge=1, strict=True)
    inputs: int | None = Field(None, ge=1, strict=True, description="Default: the store's number of inputs.")
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    offset: list[Annotated[float, Field(strict=True)]] | None = None
    scale: list[Annotated[float, Field(strict=True)]] | None = None
    description: str = ""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "digits", "labels": ["0", "1", "2"], "inputs": 64}]}
    )

    @model_validator(mode="after")
    def _labels_or_outputs(self) -> Self:
        if self.labels is None and self.outputs is None:
            raise ValueError("give labels, or the number of outputs")
        return self


class PrequentialBody(BaseModel):
    """Test-then-train over the whole stream; null before the first row."""

    accuracy: float | None
    loss: float | None


class TaskBody(BaseModel):
    """A task, as the service shows it."""

    key: str
    labels: list[str] | None
    outputs: int
    inputs: int
    loss: Literal["cross_entropy", "mse"]
    offset: list[float] | None
    scale: list[float] | None
    description: str
    rows_seen: int
    updates: int
    prequential: PrequentialBody
    last_sequence: int


class TaskPage(BaseModel):
    """One page of a listing, in the order of keys."""

    tasks: list[TaskBody]
    next_cursor: str | None


class StoreBytes(BaseModel):
    """Memory, in bytes."""

    weights: int
    optimizer: int
    contexts_cached: int


class JournalBody(BaseModel):
    """The journal: what a recovery would replay, and whether it can be written."""

    horizon: int = Field(description="The sequence number before the oldest record.")
    sequence: int
    records_since_snapshot: int
    failure: str | None = Field(description="Why nothing is learned until the next start.")


class RecoveryBody(BaseModel):
    """How the store came back when the service was started."""

    snapshot: str
    replayed: int
    fingerprint_changed: bool = Field(
        description="The replayed records were first applied by other arithmetic: equal only to rounding."
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
    fingerprint: dict[str, Any]
    journal: JournalBody
    recovery: RecoveryBody


class LayerBody(BaseModel):
    """Crosstalk of one layer."""

    name: str
    crosstalk_predicted: float
    crosstalk_measured: float


class TasksLeftBody(BaseModel):
    """How many more tasks like these fit before the mean accuracy falls by `for_drop`."""

    estimate: int
    low: int
    high: int
    for_drop: float


class CapacityBody(BaseModel):
    """`GET /v1/capacity`: from this store's own measurements."""

    tasks: int
    layers: list[LayerBody]
    mean_accuracy: float | None = None
    tasks_left: TasksLeftBody | None = None


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


class SnapshotBody(BaseModel):
    """One snapshot."""

    id: str
    sequence: int
    bytes: int
    sha256: str = Field(description="Of the file.")
    created: str
    digest: str = Field(description="Of the store: weights, optimizer, sequence, tasks.")
