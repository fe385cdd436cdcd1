"""Bodies about rows: infer, update, evaluate."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from superposed_service.api.v1.schemas.base import Body

__all__ = [
    "CONTEXT_SCHEMA",
    "EvaluateAnswer",
    "EvaluateBody",
    "InferAnswer",
    "InferBody",
    "Matrix",
    "ReturnField",
    "Targets",
    "UpdateAnswer",
    "UpdateBody",
]

ReturnField = Literal["labels", "probabilities", "logits", "values"]

CONTEXT_SCHEMA: dict[str, Any] = {
    "description": "A context: text (`digits`, `digits/u42`, `mix(a:0.7,b:0.3)`, `rot^1.25`) or its JSON"
    " form; where rows are answered, `auto` for the task that they fit best.",
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]},
        {"type": "object", "properties": {"mixture": {"type": "array"}}, "required": ["mixture"]},
        {"type": "object", "properties": {"power": {"type": "object"}}, "required": ["power"]},
    ],
}
# Contexts, numbers and targets are checked once, against the tasks, by the engine; here they just pass.
Context = Annotated[Any, WithJsonSchema(CONTEXT_SCHEMA)]
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


class _RowsBody(Body):
    """Rows, and the context of all or of each of them."""

    context: Context = None
    contexts: Annotated[list[Any] | None, WithJsonSchema({"type": "array", "items": CONTEXT_SCHEMA})] = None
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


class LocatedBody(BaseModel):
    """The context that was found for rows without one, and how sure that is."""

    context: str
    probability: float


class InferAnswer(BaseModel):
    """Response of `POST /v1/infer`; row order kept, null where a field does not apply to a row's task."""

    sequence: int
    labels: list[str | int | None] | None = None
    probabilities: list[list[float] | None] | None = None
    logits: list[list[float]] | None = None
    values: list[list[float] | None] | None = None
    located: LocatedBody | None = Field(None, description="Which context `auto` stood for.")


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
    """Response of `POST /v1/evaluate`."""

    rows: int
    loss: float
    accuracy: float | None = Field(None, description="Absent where no row belongs to a cross_entropy task.")


class UpdateAnswer(EvaluateAnswer):
    """Response of `POST /v1/update`: measured before the first step."""

    sequence: int
