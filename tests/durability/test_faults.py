"""The quick form of `tests.durability.faults`: every so many of the places."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durability.faults import disk_errors, flips, power_cuts


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_a_power_cut_loses_nothing_that_was_acknowledged() -> None:
    assert power_cuts(200) == {"recovered": 200}


def test_without_fsync_it_does() -> None:
    outcome = power_cuts(100, durable=False)
    assert outcome["recovered"] < 80
    # And where something is missing, it is not served in silence.
    assert outcome["JournalCorrupt"] > outcome["lost"]


def test_a_failing_disk_acknowledges_nothing_and_inference_goes_on() -> None:
    outcome = disk_errors(every=7)
    assert set(outcome) <= {"recovered", "journal failed", "update refused after it", "refused to start"}
    assert outcome["recovered"] > 20
    assert outcome["update refused after it"] == outcome["journal failed"] > 10


def test_killed_at_a_write_it_recovers() -> None:
    command = [sys.executable, "-m", "tests.durability.faults", "kills", "--every", "9"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert set(json.loads(found.stdout)["outcome"]) == {"recovered"}


def test_a_flipped_bit_is_never_served() -> None:
    for place, outcome in flips(every=211).items():
        kinds = {kind.partition(",")[0] for kind in outcome}
        assert kinds <= {"recovered", "JournalCorrupt"}, place
        assert not any(kind.endswith("finds nothing") for kind in outcome), place
