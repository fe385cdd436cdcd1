"""A few rounds of `tests.durability.failover` on loopback: servers killed under load, others promoted."""

from __future__ import annotations

from pathlib import Path

from tests.durability.failover import run


def test_kills_and_promotions_lose_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, 4, clients=4)
    assert found.rounds == 4
    assert found.promotions > 0
    assert found.acknowledged > 5
    assert (found.lost, found.twice, found.after_its_successor, found.reads_that_went_back) == (0, 0, 0, 0)
    assert found.digests_equal
    assert found.reference_equal
