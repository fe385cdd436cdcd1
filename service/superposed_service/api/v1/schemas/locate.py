"""Bodies about finding a context, consolidating, and learning a model in."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from superposed_service.api.v1.schemas.base import Body
from superposed_service.api.v1.schemas.inference import CONTEXT_SCHEMA, Matrix, Targets

__all__ = ["ConsolidateAnswer", "ConsolidateBody", "LearnModelAnswer", "LocateAnswer", "LocateBody"]

_CONTEXTS = WithJsonSchema({"type": "array", "items": CONTEXT_SCHEMA})
_Number = Annotated[float, Field(ge=-64, le=64)]


class LocateBody(Body):
    """`POST /v1/locate`: rows of one unknown context."""

    inputs: Matrix
    targets: Targets | None = Field(None, description="What they should be answered with, if that is known.")
    candidates: Annotated[list[Any] | None, _CONTEXTS] = Field(
        None, min_length=1, description="Default: every task that takes such rows."
    )
    exponent_of: str | None = Field(None, description="A task key: which power of it do the rows fit?")
    exponents: tuple[_Number, _Number] | None = Field(
        None, description="From where to where; default 0 to 1 in cyclic stores, 0 to 4 in others."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": [[0.0, 5.0]]}]})

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.candidates is not None and self.exponent_of is not None:
            raise ValueError("give candidates or exponent_of, not both")
        if self.exponents is not None and self.exponent_of is None:
            raise ValueError("exponents say where to search: give exponent_of too")
        if self.exponents is not None and not self.exponents[0] < self.exponents[1]:
            raise ValueError("exponents: the first must be smaller than the second")
        return self


class ScoreBody(BaseModel):
    """Likelihood that the rows belong to a context, among the candidates."""

    context: str
    probability: float


class LocateAnswer(BaseModel):
    """The context that fits best, and the likeliest ones with it."""

    best: str
    scores: list[ScoreBody]
    rows: int


class ConsolidateBody(Body):
    """`POST /v1/consolidate`."""

    steps: int = Field(ge=1, strict=True, description="Rehearsal steps over all tasks, in short slices.")


class ConsolidateAnswer(BaseModel):
    """Response of consolidation: slices up to the first one that would have made the tasks worse."""

    sequence: int
    before: dict[str, float] = Field(description="Accuracy of each task on kept rows before the first slice;")
    after: dict[str, float] = Field(description="after the last one.")
    accepted: bool = Field(description="Whether every slice was accepted.")
    steps: int = Field(description="How many steps count.")


class LearnModelAnswer(BaseModel):
    """Response of `PUT /v1/tasks/{key}/model`."""

    sequence: int
    updates: int
    agreement: float = Field(
        description="On rows held out: share answered alike; of an mse task the variance explained."
    )
