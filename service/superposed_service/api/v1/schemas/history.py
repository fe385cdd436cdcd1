"""Bodies about the store's past: snapshots and rollbacks."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from superposed_service.api.v1.schemas.base import Body

__all__ = ["RollbackAnswer", "RollbackBody", "SnapshotBody"]

Sequence = Annotated[int, Field(ge=1, strict=True)]


class WithoutBody(Body):
    """Records to take out: all that teach a task, all that an API key sent, or a range."""

    task: str | None = Field(None, description="Its updates, also those of compositions that contain it.")
    api_key: str | None = Field(None, description="The updates that the API key of this id sent.")
    sequences: tuple[Sequence, Sequence] | None = Field(None, description="First and last, both included.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(one is not None for one in (self.task, self.api_key, self.sequences)) != 1:
            raise ValueError("give exactly one of task, api_key and sequences")
        if self.sequences is not None and self.sequences[0] > self.sequences[1]:
            raise ValueError("the first of the sequences comes after the last")
        return self


class RollbackBody(Body):
    """`POST /v1/rollback`: back to a sequence number, or as if some records had never been."""

    to_sequence: Annotated[int, Field(ge=0, strict=True)] | None = None
    without: WithoutBody | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"without": {"task": "digits"}}]})

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.to_sequence is None) == (self.without is None):
            raise ValueError("give exactly one of to_sequence and without")
        return self


class RollbackAnswer(BaseModel):
    """Response of `POST /v1/rollback`."""

    sequence: int = Field(description="The rollback's own; those taken out are not used again.")
    rebuilt_from: int | None = Field(description="Sequence of the snapshot; null where nothing was to do.")
    excluded: list[tuple[int, int]] = Field(description="Ranges of records, both ends included.")


class SnapshotBody(BaseModel):
    """One snapshot."""

    id: str
    sequence: int
    bytes: int
    sha256: str = Field(description="Of the file.")
    created: str
    digest: str = Field(description="Of the store: weights, optimizer, sequence, tasks.")
    chain: str = Field(description="The journal's hash chain at that record; empty before release 0.2.")
    lineage: str = Field(description="The store's identity; empty before release 0.2.")
