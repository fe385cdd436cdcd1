"""Server-sent events: what is told, to whom, and that nobody waits for a listener."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from superposed.errors import UnknownTask
from superposed_client import AsyncClient, Client, Event, Overloaded
from superposed_service.errors import Overloaded as ServiceOverloaded
from superposed_service.runtime.event_stream import REMEMBERED, Events
from superposed_service.runtime.event_stream import Event as ServiceEvent
from superposed_service.settings import Settings
from superposed_service.storage import Record
from tests.conftest import make_directory, serving
from tests.helpers.api_keys import UPDATE, make
from tests.helpers.http import ROW, problem, register


@contextmanager
def listening(http: httpx.Client, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events from here on, as they come."""
    with http.stream("GET", "/v1/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        assert next(lines).startswith("retry: ")
        yield _events(lines)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield {**fields, "data": json.loads(fields["data"])} if "data" in fields else fields
            fields = {}


def records(events: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The next so many records, whatever load comes between."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        event = next(events)
        if event.get("event", "load") != "load":
            found.append(event)
    return found


class TestWhatIsTold:
    def test_records_as_they_are_applied(self, http: httpx.Client) -> None:
        with listening(http) as events:
            register(http)
            answer = http.post("/v1/update", json=UPDATE).json()
            http.post("/v1/quarantine", json={"source": "digits"})
            http.post("/v1/update", json=UPDATE)
            http.post("/v1/rollback", json={"to_sequence": 2})
            http.delete("/v1/tasks/digits")
            told = records(events, 6)
        kinds = ["register", "update", "quarantine", "update", "rollback", "delete"]
        assert [one["event"] for one in told] == kinds
        assert [int(one["id"]) for one in told] == [one["data"]["sequence"] for one in told]
        assert told[0]["data"] == {"sequence": 1, "task": "digits"}
        assert told[1]["data"] == {
            "sequence": 2,
            "contexts": ["digits"],
            "more_contexts": 0,
            **{name: answer[name] for name in ("rows", "loss", "accuracy")},
        }
        assert told[2]["data"] == {"sequence": 3, "source": "digits"}
        assert "in quarantine" in told[3]["data"]["refused"]
        assert told[4]["data"] == {"sequence": 5, "excluded": [[3, 4]]}

    def test_many_contexts_are_cut_short(self, http: httpx.Client) -> None:
        keys = [f"t{number}" for number in range(10)]
        for key in keys:
            register(http, key)
        with listening(http) as events:
            body = {"contexts": keys, "inputs": [ROW] * 10, "targets": ["0"] * 10}
            assert http.post("/v1/update", json=body).status_code == 200
            [told] = records(events, 1)
        assert (told["data"]["contexts"], told["data"]["more_contexts"]) == (keys[:8], 2)

    def test_load_once_a_second(self, http: httpx.Client) -> None:
        register(http)
        with listening(http) as events:
            next(events)  # what the second holds that has begun before
            for _ in range(8):
                http.post("/v1/infer", json={"context": "digits", "inputs": [ROW, ROW]})
            busy = [next(events)["data"] for _ in range(2)]
            started = time.monotonic()
            idle = next(events)["data"]
            assert 0.5 < time.monotonic() - started < 5
        assert sum(one["requests_per_s"] for one in busy) == pytest.approx(8, rel=0.3)
        assert sum(one["rows_per_s"] for one in busy) == pytest.approx(16, rel=0.3)
        latest = next(one for one in busy if one["requests_per_s"])
        assert latest["batch_rows"] == 2
        assert 0 < latest["latency_ms"]["p50"] <= latest["latency_ms"]["p99"] < 5000
        assert (idle["requests_per_s"], idle["batch_rows"], idle["waiting"]) == (0, None, 0)
        assert idle["latency_ms"] == {"p50": None, "p95": None, "p99": None}
        assert idle["listeners"] == 1


class TestCatchingUp:
    def test_what_was_missed_comes_first(self, http: httpx.Client) -> None:
        register(http)
        for _ in range(3):
            http.post("/v1/update", json=UPDATE)
        with listening(http, **{"Last-Event-ID": "2"}) as events:
            assert [int(one["id"]) for one in records(events, 2)] == [3, 4]
            http.post("/v1/update", json=UPDATE)
            assert [int(one["id"]) for one in records(events, 1)] == [5]
        for wrong in ("9" * 5000, "x", "-1", "1e3"):
            problem(http.get("/v1/events", headers={"Last-Event-ID": wrong}), 422, "invalid-request")
        problem(http.get("/v1/events?after=-1"), 422, "invalid-request")

    def test_not_more_is_remembered_than_is_bounded(self) -> None:
        async def run() -> list[int | None]:
            events = Events(Settings())
            for number in range(REMEMBERED + 5):
                events.publish(ServiceEvent("update", {}, number))
            subscription = events.subscribe(after=0)
            subscription.end()
            return [event.sequence async for event in subscription]

        assert asyncio.run(run()) == list(range(5, REMEMBERED + 5))

    def test_what_is_caught_up_with_does_not_count_as_falling_behind(self) -> None:
        async def run() -> list[int | None]:
            events = Events(Settings(event_queue=2))
            for number in range(1, 11):
                events.publish(ServiceEvent("update", {}, number))
            subscription = events.subscribe(after=0)
            for number in (11, 12):
                events.publish(ServiceEvent("update", {}, number))
            assert not subscription.dropped
            subscription.end()
            return [event.sequence async for event in subscription]

        assert asyncio.run(run()) == list(range(1, 13))

    def test_what_names_many_tasks_is_told_and_not_remembered(self) -> None:
        async def run() -> tuple[list[int | None], list[int | None]]:
            events = Events(Settings())
            there = events.subscribe(None)
            for number, count in ((1, 64), (2, 65)):
                keys = frozenset(f"t{place}" for place in range(count))
                events.publish(ServiceEvent("update", {}, number, keys))
            late = events.subscribe(after=0)
            events.close()
            return [event.sequence async for event in there], [event.sequence async for event in late]

        assert asyncio.run(run()) == ([1, 2], [1])


class TestWhoIsTold:
    def test_a_foreign_task_is_not_told_of(self, http: httpx.Client) -> None:
        for key in ("mine.a", "theirs"):
            register(http, key)
        admin = make(http, "admin")
        problem(http.get("/v1/events"), 401, "unauthenticated")
        http.headers.update(admin)
        reader = make(http, "infer", tasks="mine.*")
        with listening(http, **reader) as events:
            for context in ("theirs", "mix(mine.a:0.9,theirs:0.1)", "mine.a"):
                http.post("/v1/update", json=UPDATE | {"context": context})
            http.post("/v1/quarantine", json={"source": "theirs"})
            http.post("/v1/quarantine", json={"source": "mine.a"})
            told = records(events, 2)
        assert [one["data"].get("contexts") or one["data"]["source"] for one in told] == [["mine.a"], "mine.a"]

    @pytest.mark.parametrize("end", ["revoke", "rotate", "first key"])
    def test_a_key_that_is_over_hears_no_more(self, http: httpx.Client, end: str) -> None:
        register(http)
        headers = {}
        if end != "first key":
            http.headers.update(make(http, "admin"))
            headers = make(http, "infer")
        with listening(http, **headers) as events:
            next(events)
            if end == "first key":
                http.headers.update(make(http, "admin"))
            identifier = headers.get("Authorization", "--").split("-")[1]
            if end == "revoke":
                http.delete(f"/v1/keys/{identifier}")
            if end == "rotate":
                http.post(f"/v1/keys/{identifier}/rotate")
            assert http.post("/v1/update", json=UPDATE).status_code == 200
            assert all(event["event"] == "load" for event in events)


class TestBounds:
    def test_so_many_and_no_more(self, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store"), event_subscribers=1) as http:
            with listening(http):
                problem(http.get("/v1/events"), 503, "overloaded")
            deadline = time.monotonic() + 10
            while (answer := _status(http)) == 503 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert answer == 200

    def test_who_is_slow_is_dropped_and_nobody_waits(self) -> None:
        async def run() -> None:
            events = Events(Settings(event_queue=3))
            slow, quick = events.subscribe(None), events.subscribe(None)
            taken: list[int | None] = []

            async def take() -> None:
                async for event in quick:
                    taken.append(event.sequence)

            task = asyncio.create_task(take())
            for number in range(10):
                events.publish(ServiceEvent("update", {}, number))
                await asyncio.sleep(0.001)
            assert (slow.dropped, quick.dropped, events.listeners) == (True, False, 1)
            assert [event async for event in slow] == []
            events.close()
            await asyncio.wait_for(task, 5)
            assert taken == list(range(10))

        asyncio.run(run())

    def test_a_client_that_does_not_read_is_dropped_and_holds_nothing_up(self, tmp_path: Path) -> None:
        apis: list[FastAPI] = []
        path, limits = make_directory(tmp_path / "store"), {"event_queue": 4, "response_timeout_s": 0.5}
        with serving(path, change=apis.append, **limits) as http:
            register(http)
            events: Events = apis[0].state.events
            url = httpx.URL(str(http.base_url))
            with socket.create_connection((url.host, url.port)) as stuck:
                stuck.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"200 OK" in stuck.recv(64)
                assert events.listeners == 1
                for _ in range(200):  # more than all buffers between here and there hold
                    events.publish(ServiceEvent("load", {"filler": "x" * 200_000}))
                    started = time.monotonic()
                    assert http.post("/v1/update", json=UPDATE).status_code == 200
                    assert time.monotonic() - started < 5
                    if not events.listeners:
                        break
                assert events.listeners == 0
                time.sleep(1.0)
                stuck.settimeout(10)
                while stuck.recv(1 << 20):  # what was sent before is still read, and then it is over
                    pass


def test_one_api_key_leaves_room_for_others() -> None:
    async def run() -> None:
        events = Events(Settings(event_subscribers=5, event_subscribers_per_key=2))
        first, _ = events.subscribe(None, "a"), events.subscribe(None, "a")
        with pytest.raises(ServiceOverloaded, match="too many") as refused:
            events.subscribe(None, "a")
        assert "one API key" in str(refused.value.expected)
        events.subscribe(None, "b")
        events.unsubscribe(first)
        events.subscribe(None, "a")
        for _ in range(2):  # without keys everybody is the same
            events.subscribe(None)
        with pytest.raises(ServiceOverloaded, match="too many"):
            events.subscribe(None)

    asyncio.run(run())


def test_what_a_bug_says_is_not_told() -> None:
    async def run() -> None:
        events = Events(Settings())
        listener = events.subscribe(None)
        for error in (RuntimeError("/secret/path"), UnknownTask("no task has this key")):
            outcome: Future[dict[str, Any]] = Future()
            outcome.set_exception(error)
            events.applied(Record(1, "register", {"key": "a"}, None), outcome)
        events.close()
        told = [event.data["refused"] async for event in listener]
        assert "secret" not in told[0]
        assert "no task has this key" in told[1]

    asyncio.run(run())


def _status(http: httpx.Client) -> int:
    with http.stream("GET", "/v1/events") as answer:
        return answer.status_code


def test_the_sdk(http: httpx.Client) -> None:
    url = str(http.base_url)
    register(http)
    http.post("/v1/update", json=UPDATE)
    with Client(url) as client:
        events = client.events(after=1)
        first = next(event for event in events if event.kind == "update")
        assert first.sequence == 2
        assert first.data["contexts"] == ["digits"]

    async def run() -> Event:
        async with AsyncClient(url) as client:
            async for event in client.events(after=1):
                return event
        raise AssertionError

    assert asyncio.run(run()) == first


def test_the_sdk_is_refused(tmp_path: Path) -> None:
    with (
        serving(make_directory(tmp_path / "store"), event_subscribers=0) as http,
        Client(str(http.base_url)) as client,
        pytest.raises(Overloaded),
    ):
        next(client.events())
