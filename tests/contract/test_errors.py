"""Every error has a row in the service's table and a class in the client."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import superposed
import superposed_client
import superposed_service
from superposed.errors import SuperposedError, UnknownTask
from superposed_client import _errors as client_errors
from superposed_service.api.problems import PROBLEMS, problem_of, problem_response
from tools import reference

# The contract.
SLUGS = {
    "invalid-request": 422, "shape-mismatch": 422, "non-finite-input": 422, "label-out-of-range": 422,
    "empty-batch": 422, "composition-not-supported": 422, "expression-invalid": 422, "unknown-task": 404,
    "task-exists": 409, "schema-changed": 409, "task-in-use": 409, "update-refused": 422,
    "payload-too-large": 413, "idempotency-mismatch": 422,
    "idempotency-in-flight": 409, "unauthenticated": 401, "forbidden": 403, "quota-exceeded": 429,
    "overloaded": 503, "not-ready": 503, "not-leader": 421, "not-fresh": 409, "diverged": 409, "too-few-followers": 503,
    "storage-unavailable": 503, "deadline-exceeded": 504,
    "batch-too-large": 413, "quarantined": 423, "beyond-horizon": 409, "not-found": 404,
    "method-not-allowed": 405, "unsupported-media-type": 415, "internal": 500, "limit-reached": 409,
    "encoder-unavailable": 501, "bad-request": 400, "request-timeout": 408, "headers-too-large": 431,
}  # fmt: skip


def tree(root: type[SuperposedError]) -> set[type[SuperposedError]]:
    own = (child for child in root.__subclasses__() if child.__module__.startswith("superposed"))
    return {root}.union(*(tree(child) for child in own))


def test_every_error_has_a_row_of_its_own_or_that_of_the_class_above() -> None:
    assert set(PROBLEMS) <= tree(SuperposedError)
    for error in set(PROBLEMS) - {SuperposedError}:
        [above] = [kind for kind in error.__bases__ if issubclass(kind, SuperposedError)]
        assert problem_of(error("x")) != problem_of(above("x")), f"{error.__name__}: a row that says nothing"


def test_every_row_is_a_problem_of_the_contract() -> None:
    for status, slug, title in PROBLEMS.values():
        assert SLUGS[slug] == status
        assert title


def test_errors_page_has_every_problem_of_the_contract_with_its_exceptions() -> None:
    page = reference.errors()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+?) \| `(\w+)` \| (.*) \|$", page, re.M)
    assert {slug: int(status) for slug, status, *_ in rows} == SLUGS
    assert {slug: name for slug, _, _, name, _ in rows} == {
        slug: kind.__name__ for slug, kind in client_errors.ERRORS.items()
    }
    assert {name for row in rows for name in re.findall(r"\w+", row[4])} == {kind.__name__ for kind in PROBLEMS}


def test_the_client_has_one_class_for_every_problem() -> None:
    assert set(client_errors.ERRORS) == set(SLUGS)
    assert len({error.__name__ for error in client_errors.ERRORS.values()}) == len(SLUGS)
    for error in client_errors.ERRORS.values():
        assert getattr(superposed_client, error.__name__) is error


def trees(package: object) -> Iterator[ast.AST]:
    """The syntax of a package's modules."""
    return (ast.parse(path.read_text()) for path in Path(str(package.__file__)).parent.rglob("*.py"))  # type: ignore[attr-defined]  # a module


def classes(package: object) -> set[str]:
    """Names of a package's classes."""
    return {one.name for tree in trees(package) for one in ast.walk(tree) if isinstance(one, ast.ClassDef)}


def raised(package: object) -> set[str]:
    """Names of the errors that a package's docstrings say are raised, in a section or by sentences."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [one for tree in trees(package) for one in ast.walk(tree) if isinstance(one, kinds)]
    sections = [re.search(r"^Raises:\n((?: +.*\n?)+)", ast.get_docstring(one) or "", re.M) for one in nodes]
    lines = [name for found in sections if found for name in re.findall(r"^ {4}([\w, ]+):", found[1], re.M)]
    told = [re.findall(r"\b[Rr]aise (`[A-Z][^.]*)", ast.get_docstring(one) or "") for one in nodes]
    sentences = {
        name for found in told for one in found for name in re.findall(r"`([A-Z][a-z]\w+)` (?:where|for)", one)
    }
    return {name for line in lines for name in line.split(", ")} | sentences


def test_docstrings_name_errors_that_exist() -> None:
    here = classes(superposed) | classes(superposed_service) | set(dir(builtins))
    assert {"HistoryTruncated", "InputError"} <= raised(superposed_service) | raised(superposed)
    assert raised(superposed) | raised(superposed_service) <= here
    assert raised(superposed_client) <= classes(superposed_client) | set(dir(builtins))


def test_codes_are_those_that_release_0_1_0_has_stored() -> None:
    """Journals hold them: a class may be renamed, and its code stays."""
    stored = [
        "AccessError",
        "HistoryTruncated",
        "CapacityExceeded",
        "CompositionNotSupported",
        "ConfigError",
        "ContextError",
        "DeadlineExceeded",
        "DigestMismatch",
        "EmptyBatch",
        "ExpressionInvalid",
        "Forbidden",
        "IdempotencyInFlight",
        "IdempotencyMismatch",
        "InputError",
        "InvalidRequest",
        "JournalCorrupt",
        "LabelOutOfRange",
        "LimitReached",
        "NonFiniteInput",
        "NonFiniteUpdate",
        "NotReady",
        "Overloaded",
        "PayloadTooLarge",
        "Quarantined",
        "QuotaExceeded",
        "RequestError",
        "ServiceUnavailable",
        "ShapeError",
        "SnapshotMismatch",
        "StorageError",
        "StorageUnavailable",
        "StoreLocked",
        "TaskExists",
        "TaskInUse",
        "Unauthenticated",
        "UnknownApiKey",
        "UnknownFile",
        "UnknownSnapshot",
        "UnknownTask",
        "UnknownVersion",
        "UnsupportedMediaType",
        "UpdateError",
        "UpdateTooLarge",
    ]
    assert set(stored) <= set(SuperposedError.by_code)
    for code, kind in SuperposedError.by_code.items():
        assert kind.code == code

    class Own(UnknownTask):
        """A user's own error has the code of its base, and does not replace it."""

    assert Own.code == "UnknownTask"
    assert SuperposedError.by_code["UnknownTask"] is UnknownTask
    with pytest.raises(ValueError, match="two classes"):

        class Second(UnknownTask, code="UnknownTask"):
            pass


@pytest.mark.parametrize("kind", sorted(tree(SuperposedError), key=lambda kind: kind.__name__))
def test_an_error_crosses_the_wire_with_what_it_says(kind: type[SuperposedError]) -> None:
    error = kind("it went wrong", expected="this", received="that")
    response = problem_response(error, "/v1/x")
    status, slug, _ = problem_of(error)
    transport = httpx.MockTransport(
        lambda _: httpx.Response(response.status_code, content=response.body, headers={"X-Request-Id": "r1"})
    )
    client = superposed_client.Client("http://test", transport=transport)
    with client, pytest.raises(client_errors.ERRORS[slug]) as caught:
        client.update("a", [[1]], [0])
    assert caught.value.status == status
    assert caught.value.request_id == "r1"
    if status == 500:
        assert "it went wrong" not in str(caught.value)
    else:
        assert (caught.value.detail, caught.value.expected, caught.value.received) == ("it went wrong", "this", "that")
    assert (status in {429, 503, 504}) == ("retry-after" in response.headers)
