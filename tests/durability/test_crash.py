from __future__ import annotations

import signal

import pytest

from tests.durability.crash import crash


@pytest.mark.parametrize(("ending", "rounds"), [(signal.SIGKILL, 8), (signal.SIGTERM, 3)])
def test_nothing_acknowledged_is_lost_or_applied_twice(ending: signal.Signals, rounds: int) -> None:
    outcome = crash(rounds, ending)
    assert outcome.rounds == rounds
    assert outcome.acknowledged > 5 * rounds
    assert outcome.inferences > rounds
    assert (outcome.lost, outcome.applied_twice, outcome.stale) == (0, 0, 0)
    assert outcome.identical_to_the_reference
