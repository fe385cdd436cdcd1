"""Requests that several tests send, and the problem documents that answer them."""

from __future__ import annotations

import httpx

__all__ = ["ROW", "problem", "register"]


ROW = [0.5] * 64


def register(http: httpx.Client, key: str = "digits", **schema: object) -> dict[str, object]:
    body = {"key": key, "labels": [str(n) for n in range(10)]} | schema
    answer = http.post("/v1/tasks", json={name: value for name, value in body.items() if value is not None})
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert body["type"] == f"urn:superposed:problem:{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert str(body["instance"]).startswith("/")
    return body
