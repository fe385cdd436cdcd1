"""The committed document is the one that is served; what would break a client is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from superposed_client import models
from superposed_service.api.v1 import schemas
from tests.contract.openapi import FILE, breaking, served
from tests.helpers.routes import ACCESS_RULES

COMMITTED: dict[str, Any] = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return served()


def test_nothing_that_a_client_relies_on_is_lost(document: dict[str, Any]) -> None:
    assert breaking(COMMITTED, document) == []


def test_what_is_new_is_committed(document: dict[str, Any]) -> None:
    """The text may differ by what other versions of the framework write; what it says may not."""
    assert breaking(document, COMMITTED) == [], "python -m tests.contract.openapi --write"


def test_it_says_who_may_do_what(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            needed = ACCESS_RULES[method.upper(), path]
            assert operation.get("x-scope") == needed
            assert ("security" in operation) == (needed is not None)


SCHEMAS = "components", "schemas"


def without(*place: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        found: Any = document
        for part in place[:-1]:
            found = found[part]
        found.remove(place[-1]) if isinstance(found, list) else found.pop(place[-1])

    return change


def put(value: object, *place: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        found: Any = document
        for part in place[:-1]:
            found = found[part]
        found.append(value) if place[-1] == "+" else found.update({place[-1]: value})

    return change


BODY = ("requestBody", "content", "application/json", "schema")
INFER = ("paths", "/v1/infer", "post")
REGISTER = ("paths", "/v1/tasks", "post", *BODY)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("paths", "/v1/infer"), "POST /v1/infer: is gone"),
        (without("paths", "/v1/tasks/{key}", "delete"), "DELETE /v1/tasks/{key}: is gone"),
        (without(*SCHEMAS, "TaskInfo", "properties", "updates"), "field updates is gone"),
        (without(*SCHEMAS, "TaskInfo", "required", "updates"), "updates may be missing now"),
        (without(*REGISTER, "properties", "description"), "field description is gone"),
        (put("description", *REGISTER, "required", "+"), "description is required now"),
        (put(["mse"], *REGISTER, "properties", "loss", "enum"), "may not be [\"='cross_entropy'\"] any more"),
        (put({"type": "string"}, *SCHEMAS, "TaskInfo", "properties", "updates"), "may be ['string'] now"),
        (put(3, *REGISTER, "properties", "description", "maxLength"), "maxLength is 3 now"),
        (without(*INFER, *BODY[:2], "application/vnd.superposed.tensors"), "not read any more"),
        (without(*INFER, "responses", "200"), "answer 200 is gone"),
        (put("admin", *INFER, "x-scope"), "needs more than before: admin"),
        (without("paths", "/v1/tasks", "get", "parameters"), "parameter cursor is gone"),
    ],
)
def test_what_breaks_a_client_is_found(change: Callable[[dict[str, Any]], None], says: str) -> None:
    changed = copy.deepcopy(COMMITTED)
    change(changed)
    assert any(says in found for found in breaking(COMMITTED, changed)), breaking(COMMITTED, changed)


@pytest.mark.parametrize(
    "change",
    [
        put({"get": {"responses": {}}}, "paths", "/v1/new"),
        put({"type": "integer"}, *SCHEMAS, "TaskInfo", "properties", "new"),
        put({"type": "integer"}, *REGISTER, "properties", "new"),
        put(["cross_entropy", "mse", "hinge"], *REGISTER, "properties", "loss", "enum"),
        put("infer", "paths", "/v1/model", "get", "x-scope"),
    ],
)
def test_what_only_adds_is_fine(change: Callable[[dict[str, Any]], None]) -> None:
    changed = copy.deepcopy(COMMITTED)
    change(changed)
    assert breaking(COMMITTED, changed) == []


def test_bodies_are_complete_before_the_first_request() -> None:
    """A model that names a later one is completed by its first use, and by two threads at once not at all."""
    found = [*vars(schemas).values(), *vars(models).values()]
    kinds = [one for one in found if isinstance(one, type) and issubclass(one, BaseModel) and one is not BaseModel]
    assert len(kinds) > 40
    assert [one.__name__ for one in kinds if not one.__pydantic_complete__] == []
