"""Bodies about tasks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from superposed_service.api.v1.schemas.base import Body
from superposed_service.api.v1.schemas.inference import Context

__all__ = ["ErasureAnswer", "EvaluationBody", "TaskBody", "TaskPage", "TaskRegistration"]


class TaskRegistration(Body):
    """`POST /v1/tasks`: give labels, or the number of outputs."""

    key: str
    labels: list[Annotated[str, Field(max_length=256)]] | None = Field(None, min_length=1)
    outputs: int | None = Field(None, ge=1, strict=True)
    inputs: int | None = Field(None, ge=1, strict=True, description="Default: the store's number of inputs.")
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    offset: list[Annotated[float, Field(strict=True)]] | None = None
    scale: list[Annotated[float, Field(strict=True)]] | None = None
    description: str = ""
    keep_rows: bool = Field(
        True,
        strict=True,
        description="Whether rows may be kept: a few to see how the task fares, others to rehearse it with.",
    )
    group: str | None = Field(None, description="A registered task that lends its first layers.")
    own_layers: int | None = Field(
        None,
        ge=1,
        strict=True,
        description="How many of the last layers are its own; default: the later half. Only with a group.",
    )
    composition: Context = Field(
        None,
        description="A mixture or power of registered tasks that it binds instead of a context of its own.",
    )

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
    rows_kept: int = Field(description="Rows that are kept to rehearse it with.")
    keep_rows: bool
    group: str | None
    own_layers: int | None
    composition: str | None
    quarantined: int | None = Field(
        description="Sequence number since when its updates are recorded and not learned from; null if not."
    )


class EvaluationBody(BaseModel):
    """One measurement of a task."""

    tasks: int = Field(description="How many tasks had been taught by then.")
    sequence: int = Field(description="Of the weights that were measured.")
    rows: int
    accuracy: float


class TaskPage(BaseModel):
    """One page of a listing, in the order of keys."""

    tasks: list[TaskBody]
    next_cursor: str | None


class ErasureAnswer(BaseModel):
    """The outcome of `DELETE /v1/tasks/{key}/data`."""

    records: int = Field(description="Records that lost their rows in the journal.")
    rows: int = Field(description="Rows forgotten that were kept for rehearsal.")
    snapshots_until: float | None = Field(
        description="Unix seconds until when older snapshots, which may hold such rows, stay for rollbacks;"
        " null where there are none, or they are gone."
    )
