"""A short form of the random differential kill run; `tests.durability.differential` is the long one."""

from __future__ import annotations

from tests.durability.differential import run


def test_a_store_that_was_killed_is_the_store_that_was_not() -> None:
    outcome = run(minutes=0, seed=7, results=None, at_least=1)
    assert outcome.good, vars(outcome)
    assert outcome.kills_serving >= 8
    assert outcome.records > 25
