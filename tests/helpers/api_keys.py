"""API keys made over HTTP."""

from __future__ import annotations

from typing import Any

import httpx

from tests.helpers.http import ROW

__all__ = ["UPDATE", "make"]


UPDATE: dict[str, Any] = {"context": "digits", "inputs": [ROW], "targets": ["0"]}


def make(http: httpx.Client, scope: str, tasks: str = "*", **more: Any) -> dict[str, str]:
    """The headers of a new key."""
    answer = http.post("/v1/keys", json={"scope": scope, "tasks": tasks, **more})
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['key']}"}
