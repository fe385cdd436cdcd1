"""Tasks and requests of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

__all__ = ["DTYPES", "LABELS", "ROWS", "native", "register_tasks"]


ROWS = np.random.default_rng(0).random((3, 64), dtype=np.float32)


LABELS = [f"n{number}" for number in range(10)]


def register_tasks(client: httpx.Client) -> None:
    for key, schema in {
        "digits": {"labels": LABELS},
        "plain": {"outputs": 10},
        "few": {"outputs": 4},
        "line": {"outputs": 2, "loss": "mse"},
        "rot": {"outputs": 10},
    }.items():
        assert client.post("/v1/tasks", json={"key": key, **schema}).status_code == 201


def native(http: httpx.Client, context: Any, rows: Any = ROWS, **more: Any) -> dict[str, Any]:
    many = {"contexts": context} if isinstance(context, list) else {"context": context}
    answer = http.post("/v1/infer", json={**many, "inputs": np.asarray(rows).tolist(), **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


DTYPES = {"f8": "FP64", "u1": "UINT8", "i1": "INT8", "i4": "INT32", "i8": "INT64", "?": "BOOL"}
