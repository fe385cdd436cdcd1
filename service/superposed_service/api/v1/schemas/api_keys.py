"""Bodies about API keys."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from superposed_service.api.v1.schemas.base import Body

__all__ = ["ApiKeyBody", "ApiKeyRequest", "NewApiKeyBody"]

_SCOPE = "`monitor` (metrics, nothing else); `infer`; `update` (infer, and learn); `admin` (everything)."
_TASKS = "A pattern of task keys that it may name: `*` and `?`."
_QUOTA = "Its own quota; null for the server's, 0 for none."


class ApiKeyRequest(Body):
    """`POST /v1/keys`."""

    name: str = Field("", max_length=256)
    scope: Literal["monitor", "infer", "update", "admin"] = Field(description=_SCOPE)
    tasks: str = Field("*", min_length=1, max_length=256, description=_TASKS)
    expires: float | None = Field(None, gt=0, description="Unix seconds; null for never.")
    requests_per_second: float | None = Field(None, ge=0, description=_QUOTA)
    rows_per_second: float | None = Field(None, ge=0, description=_QUOTA)
    updates_per_second: float | None = Field(None, ge=0, description=_QUOTA)


class ApiKeyBody(BaseModel):
    """An API key, without its secret."""

    id: str
    name: str
    scope: Literal["monitor", "infer", "update", "admin"] = Field(description=_SCOPE)
    tasks: str = Field(description=_TASKS)
    created: float = Field(description="Unix seconds.")
    since: int = Field(description="The journal's sequence number when it was made.")
    expires: float | None = Field(description="Unix seconds; null for never.")
    revoked: float | None = Field(description="Unix seconds; null while it is good.")
    requests_per_second: float | None = Field(description=_QUOTA)
    rows_per_second: float | None = Field(description=_QUOTA)
    updates_per_second: float | None = Field(description=_QUOTA)


class NewApiKeyBody(BaseModel):
    """A new API key, shown once."""

    id: str
    key: str = Field(description="For `Authorization: Bearer …`.")
