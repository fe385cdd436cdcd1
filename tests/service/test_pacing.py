"""When refusals leave."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from starlette.types import Message, Receive, Scope, Send

from superposed_service.api.middleware.gateway import RejectionDelay, RequestGateway


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_refusal_waits_a_pause_and_many_leave_one_after_another() -> None:
    clock = Clock()
    pacing = RejectionDelay(0.5, 10.0, clock)
    assert pacing.wait_s("a") == 0.5
    waits = [pacing.wait_s("a") for _ in range(10)]
    assert all(abs(wait - (0.6 + 0.1 * place)) < 1e-9 for place, wait in enumerate(waits))
    assert pacing.wait_s("b") == 0.5  # another source's do not matter
    clock.now += 60
    assert pacing.wait_s("a") == 0.5


def test_nobody_is_held_back_for_more_than_twenty_pauses() -> None:
    pacing = RejectionDelay(0.5, 10.0, Clock())
    assert max(pacing.wait_s(None) for _ in range(1000)) == 10.0


def test_without_a_pause_refusals_leave_at_once() -> None:
    pacing = RejectionDelay(0.0, 1.0, Clock())
    assert [pacing.wait_s("a") for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_refusal_that_waits_holds_no_bytes() -> None:
    """Else refused bodies would keep everybody else's out for as long as the refusals wait."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 1000}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def scenario() -> None:
        gateway = RequestGateway(
            refuse,
            (),
            max_bytes=2000,
            most_held=2000,
            rejection_delay=RejectionDelay(0.2, 1000.0),
            freshness=SimpleNamespace(token=lambda: "a.1.1"),  # type: ignore[arg-type]
        )
        scope = {"type": "http", "method": "POST", "path": "/v1/infer", "headers": []}
        waiting = asyncio.create_task(gateway(scope, receive, send))
        await asyncio.sleep(0.05)
        assert (gateway.held, sent) == (0, [])
        await waiting
        assert (gateway.held, len(sent)) == (0, 2)

    asyncio.run(scenario())
