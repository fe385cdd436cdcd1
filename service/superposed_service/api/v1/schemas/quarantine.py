"""Bodies about quarantine."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from superposed_service.api.v1.schemas.base import Body

__all__ = ["QuarantineAnswer", "QuarantineBody", "QuarantineEntry"]

_SOURCE = "A task key, or `key:<id>` for an API key."


class QuarantineBody(Body):
    """`POST /v1/quarantine`."""

    source: str = Field(description=_SOURCE, max_length=256)
    reason: str = Field("", max_length=1024)


class QuarantineAnswer(BaseModel):
    """A source in quarantine, and since when."""

    source: str = Field(description=_SOURCE)
    since: int = Field(description="Sequence number of the decision.")


class QuarantineEntry(QuarantineAnswer):
    """One source in quarantine."""

    reason: dict[str, Any] | None = Field(
        description="The decision and its reason; null where the journal no longer reaches back to it."
    )
