"""When refusals leave."""

from __future__ import annotations

from superposed_service.pacing import Pacing


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_refusal_waits_a_pause_and_many_leave_one_after_another() -> None:
    clock = Clock()
    pacing = Pacing(0.5, 10.0, clock)
    assert pacing.wait_s("a") == 0.5
    waits = [pacing.wait_s("a") for _ in range(10)]
    assert all(abs(wait - (0.6 + 0.1 * place)) < 1e-9 for place, wait in enumerate(waits))
    assert pacing.wait_s("b") == 0.5  # another source's do not matter
    clock.now += 60
    assert pacing.wait_s("a") == 0.5


def test_nobody_is_held_back_for_more_than_twenty_pauses() -> None:
    pacing = Pacing(0.5, 10.0, Clock())
    assert max(pacing.wait_s(None) for _ in range(1000)) == 10.0


def test_without_a_pause_refusals_leave_at_once() -> None:
    pacing = Pacing(0.0, 1.0, Clock())
    assert [pacing.wait_s("a") for _ in range(3)] == [0.0, 0.0, 0.0]
