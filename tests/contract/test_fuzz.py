"""The short form of tests/contract/fuzz.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.fuzz import Found, Target, bodies, codecs, document, target


@pytest.fixture(scope="module")
def at() -> Iterator[Target]:
    with target() as found:
        yield found


def test_requests_made_from_the_document(at: Target) -> None:
    found = Found()
    at.register()
    document(found, at, examples=4)
    assert found.broken == []
    assert found.cases > 100
    assert {"200", "404", "422"} <= set(found.statuses)


def test_bodies_that_nobody_would_send(at: Target) -> None:
    found = Found()
    at.register()
    bodies(found, at, examples=200)
    assert found.broken == []
    assert found.statuses["200"] > 10
    assert found.statuses["422"] > 50


def test_readers_raise_nothing_but_the_services_own_errors() -> None:
    found = Found()
    codecs(found, examples=500)
    assert found.broken == []
    assert any("read" in outcome for outcome in found.statuses)
