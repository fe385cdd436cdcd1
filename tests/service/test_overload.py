"""Four times what a real server did a moment before: what must hold then, however fast it is."""

from __future__ import annotations

import pytest

from benchmarks.overload import KINDS, overload, serving


@pytest.mark.parametrize("kind", KINDS)
def test_four_times_too_much_is_refused_politely_and_costs_no_memory(kind: str) -> None:
    with serving() as server:
        found = overload(server, kind, 1.5)
    flood = found["at_4"]
    assert set(flood["statuses"]) <= {"200", "429", "503"}
    assert flood["statuses"]["200"] > 0
    assert flood["refused_without_retry_after"] == 0
    # The bodies that may wait, and no more with every second of the flood.
    assert found["rss_most_bytes"] - found["rss_before_bytes"] < 256 * 2**20
    assert found["probes"]["failed"] == 0
    assert found["peak_after"]["statuses"].get("200", 0) > 0
