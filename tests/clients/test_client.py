from __future__ import annotations

import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import superposed_client
from demo.server_process import Server
from experiments.datasets import sklearn_dataset
from superposed.contexts import as_expression
from superposed_client import (
    AsyncClient,
    AsyncKeys,
    AsyncTask,
    Client,
    ConnectionFailed,
    EmptyBatch,
    ExpressionInvalid,
    Keys,
    LabelOutOfRange,
    NonFiniteInput,
    Overloaded,
    RetryPolicy,
    ShapeMismatch,
    Task,
    UnexpectedAnswer,
    UnknownTask,
    mixture,
    models,
    power,
    task,
)
from superposed_client._core import HEAD_LENGTH, as_tensor, dump, read_tensors

UPDATED = {"rows": 1, "loss": 0.5, "sequence": 3, "unknown": "ignored"}
NO_PAUSE = RetryPolicy(retries=3, first_pause_s=0.0)


class TestParity:
    @pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (Task, AsyncTask), (Keys, AsyncKeys)])
    def test_both_clients_have_the_same_calls(self, sync: type, asynchronous: type) -> None:
        def calls(kind: type) -> dict[str, object]:
            return {
                name: member
                for name, member in vars(kind).items()
                if not name.startswith("_") and inspect.isfunction(member)
            }

        assert calls(sync).keys() == calls(asynchronous).keys()
        for name, call in calls(sync).items():
            other = calls(asynchronous)[name]
            mine, theirs = inspect.signature(call), inspect.signature(other)  # type: ignore[arg-type]
            plain = [re.sub(r"superposed_client\.[\w.]+\.|Async|'", "", str(one)) for one in (mine, theirs)]
            assert plain[0] == plain[1], name
            if name == "events":
                assert inspect.isasyncgenfunction(other)
            elif name != "task":
                assert inspect.iscoroutinefunction(other), name

    def test_all_is_what_there_is(self) -> None:
        public = {
            name
            for name, value in vars(superposed_client).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        }
        assert set(superposed_client.__all__) == public

    def test_it_stands_alone(self) -> None:
        names = ("torch", "superposed", "fastapi", "tqdm")
        code = f"import sys, superposed_client; print([m for m in {names} if m in sys.modules])"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]"


def test_slug_of_a_subclass_is_that_of_its_base() -> None:
    class OwnError(UnknownTask):
        pass

    assert OwnError({}, 404, None).slug == "unknown-task"


class TestRetries:
    def client(self, *steps: int | Exception) -> tuple[Client, list[httpx.Request]]:
        seen: list[httpx.Request] = []
        left = list(steps)

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            step = left.pop(0)
            if isinstance(step, Exception):
                raise step
            problem = {"type": "urn:superposed:problem:overloaded", "title": "Overloaded", "detail": "busy"}
            return httpx.Response(step, json=UPDATED if step == 200 else problem)

        return Client("http://test", transport=httpx.MockTransport(answer), retries=NO_PAUSE), seen

    def test_reads_are_sent_again_on_503_and_broken_connections(self) -> None:
        client, seen = self.client(503, httpx.ConnectError("no"), httpx.ReadTimeout("slow"), 200)
        assert client.evaluate("a", [[1.0]], [0]).loss == 0.5
        assert len(seen) == 4

    def test_and_no_more_often_than_asked(self) -> None:
        client, seen = self.client(503, 503, 503, 503, 200)
        with pytest.raises(Overloaded, match="busy"):
            client.evaluate("a", [[1.0]], [0])
        assert len(seen) == 4

    def test_updates_are_sent_again_with_the_same_key(self) -> None:
        client, seen = self.client(503, httpx.ReadTimeout("slow"), 200, 200, 200)
        client.update("a", [[1.0]], [0])
        client.update("a", [[1.0]], [0])
        keys = [request.headers["idempotency-key"] for request in seen]
        assert keys[0] == keys[1] == keys[2] != keys[3]
        client.update("a", [[1.0]], [0], idempotency_key="mine")
        assert seen[-1].headers["idempotency-key"] == "mine"

    def test_reads_carry_no_key(self) -> None:
        client, seen = self.client(200)
        client.evaluate("a", [[1.0]], [0])
        assert "idempotency-key" not in seen[0].headers

    def test_a_request_in_flight_is_asked_for_again(self) -> None:
        problem = {"type": "urn:superposed:problem:idempotency-in-flight", "title": "", "detail": ""}
        answers = iter([httpx.Response(409, json=problem), httpx.Response(200, json=UPDATED)])
        transport = httpx.MockTransport(lambda _: next(answers))
        with Client("http://test", transport=transport, retries=NO_PAUSE) as client:
            assert client.update("a", [[1.0]], [0]).sequence == UPDATED["sequence"]

    def test_pauses_grow_with_jitter_up_to_a_limit(self) -> None:
        request = superposed_client._core.Request("GET", "/")
        lowest, highest = (list(RetryPolicy(5, 1.0, 10.0, draw).pauses(request)) for draw in (lambda: 0.0, lambda: 1.0))
        assert lowest == [0.5, 1.0, 2.0, 4.0, 8.0]
        assert highest == [1.5, 3.0, 6.0, 10.0, 10.0]

    def test_the_servers_word_counts_up_to_a_minute(self) -> None:
        policy = RetryPolicy(longest_pause_s=5.0)
        for asked, pause in (("32", 32.0), ("3600", 60.0), ("0", 0.5), ("Wed, 21 Oct", 0.5)):
            answer = httpx.Response(429, headers={"retry-after": asked})
            assert policy.after(answer, 0.5) == pause

    def test_answers_of_something_else_are_told_apart(self) -> None:
        for body, status in (
            (b"<html>", 502),
            (b"{}", 500),
            (b"[]", 404),
            (b"{}", 200),
            (b"", 307),
            (b"nonsense", 200),
        ):
            transport = httpx.MockTransport(lambda _, b=body, s=status: httpx.Response(s, content=b))  # type: ignore[misc]
            with Client("http://test", transport=transport) as client, pytest.raises(UnexpectedAnswer):
                client.store()

    def test_an_unreachable_server(self) -> None:
        with Client("http://127.0.0.1:9", retries=NO_PAUSE) as client, pytest.raises(ConnectionFailed):
            client.store()


class TestContexts:
    @pytest.mark.parametrize(
        ("context", "text"),
        [
            (task("a"), "a"),
            (mixture({"a": 0.7, "b": 0.3}), "mix(a:0.7,b:0.3)"),
            (power("rot", 1.25), "rot^1.25"),
            (mixture([("a", 0.5), (power("rot", 2), 0.5)]), "mix(a:0.5,rot^2:0.5)"),
            (power(mixture({task("a"): 1, "b": 3}), -0.5), "mix(a:1,b:3)^-0.5"),
        ],
    )
    def test_composed_contexts_mean_what_the_text_means(self, context: superposed_client.Context, text: str) -> None:
        assert as_expression(json.loads(json.dumps(context.form))) == as_expression(text)


def wire(answer: Callable[[dict[str, object]], dict[str, object]]) -> tuple[Client, list[dict[str, object]]]:
    bodies: list[dict[str, object]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        length = request.headers.get(HEAD_LENGTH)
        bodies.append(json.loads(request.content) if length is None else read_tensors(request.content, int(length)))
        return httpx.Response(200, json=answer(bodies[-1]))

    return Client("http://test", transport=httpx.MockTransport(handle)), bodies


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[0, 255]], "uint8"),
        ([[-1, 255]], "int16"),
        (np.array([[0.5, 2.0]]), "float32"),
        (np.array([[0.1, 2.0]]), "float64"),
        (np.array([[0.1]], dtype=np.float16), "float16"),
        (np.array([[1.0]], dtype=">f8"), "float32"),
        ([[True]], None),
        ([True, 2], None),
        ([["a"]], None),
        ([[1], [1, 2]], None),
        ([[]], None),
    ],
)
def test_rows_are_sent_in_the_narrowest_dtype_that_holds_them(values: Any, dtype: str | None) -> None:
    tensor = as_tensor(values)
    assert (None if tensor is None else tensor.dtype.name) == dtype
    if tensor is not None:
        assert np.array_equal(tensor, np.asarray(values))
        content, length = dump({"inputs": tensor, "context": "a"})
        assert read_tensors(content, length) == {"inputs": tensor.tolist(), "context": "a"}


def test_arrays_of_every_kind_are_sent_as_plain_numbers() -> None:
    client, bodies = wire(lambda _: {"sequence": 1, "rows": 2, "loss": 0.0})
    rows = [np.array([1, 2], dtype=np.uint8), [np.float32(0.5), 2]]
    client.update(None, rows, np.array(["x", "y"]), contexts=["a", power("b", 2)])
    client.update("a", np.eye(2, dtype=np.float32), (0, np.int64(1)))
    assert bodies[0]["inputs"] == [[1, 2], [0.5, 2]]
    assert bodies[0]["contexts"] == ["a", {"power": {"context": "b", "exponent": 2.0}}]
    assert bodies[0]["targets"] == ["x", "y"]
    assert bodies[1]["inputs"] == [[1.0, 0.0], [0.0, 1.0]]
    assert bodies[1]["targets"] == [0, 1]


class TestTaskHandle:
    """In scikit-learn's habit, against a real server and real data."""

    def test_digits(self, server: Server) -> None:
        data = sklearn_dataset("digits")
        with server.client() as client:
            digits = client.task("sdk-digits", labels=range(10), scale=[16.0] * 64)
            assert digits.last_update is None
            assert digits.fit(data.train_x, data.train_y, epochs=8, seed=0) is digits
            assert digits.last_update is not None
            assert digits.score(data.test_x, data.test_y) > 0.93
            predicted = digits.predict(data.test_x)
            assert predicted.dtype.kind == "i"
            assert (predicted == data.test_y).mean() == pytest.approx(digits.score(data.test_x, data.test_y))
            proba = digits.predict_proba(data.test_x)
            assert proba.shape == (len(data.test_y), 10)
            np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
            assert (proba.argmax(1) == predicted).all()
            info = client.get_task("sdk-digits")
            assert info.rows_seen == 8 * len(data.train_y)
            assert info.prequential.accuracy is not None
            assert client.task(power("sdk-digits", 1.0)).score(data.test_x, data.test_y) > 0.93

    def test_text_labels_come_back_as_text(self, server: Server) -> None:
        with server.client() as client:
            colours = client.task("sdk-colours", labels=["red", "blue"])
            x = np.random.default_rng(0).normal(size=(64, 3))
            y = np.where(x[:, 0] > 0, "red", "blue")
            colours.fit(x, y, epochs=30, seed=1)
            assert colours.score(x, y) > 0.9
            assert set(colours.predict(x)) == {"red", "blue"}
            with pytest.raises(LabelOutOfRange, match="another type"):
                colours.partial_fit(x, [0] * 64)

    def test_a_number_that_is_no_label_is_refused(self, server: Server) -> None:
        """Also where all of a batch could be class indexes: what is meant does not depend on the batch."""
        with server.client() as client:
            shifted = client.task("sdk-from-one", labels=np.arange(1, 11))
            x = np.random.default_rng(0).normal(size=(3, 3))
            assert shifted.partial_fit(x, np.array([1, 5, 10])).last_update is not None
            with pytest.raises(LabelOutOfRange, match="not a label"):
                shifted.partial_fit(x, [0, 5, 7])
            with pytest.raises(LabelOutOfRange, match="not a label"):
                shifted.score(x, [0, 5, 7])
            assert shifted.predict(x).dtype.kind == "i"

    def test_tensors_and_data_frames(self, server: Server) -> None:
        x = torch.ones(4, 3, dtype=torch.bfloat16, requires_grad=True)
        with server.client() as client:
            handle = client.task("sdk-tensors", outputs=2)
            assert handle.fit(x, torch.tensor([0, 1, 0, 1]), epochs=1).last_update is not None
            assert handle.predict(x).shape == (4,)
            assert handle.predict_proba(x).shape == (4, 2)
            assert 0 <= handle.score(x, torch.tensor([0, 1, 0, 1])) <= 1
            assert client.update("sdk-tensors", x, [0, 1, 0, 1], steps=np.int64(2)).rows == 4  # type: ignore[arg-type]

    def test_regression(self, server: Server) -> None:
        x = np.random.default_rng(0).normal(size=(256, 5))
        y = x[:, 0] - 0.5 * x[:, 1]
        with server.client() as client:
            line = client.task("sdk-line", outputs=1, loss="mse").fit(x, y, epochs=40, seed=0)
            assert line.score(x, y) > 0.8
            assert line.predict(x).shape == (256,)

    def test_a_progress_bar(self, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        with server.client() as client:
            client.task("sdk-bar", outputs=2).fit(np.ones((10, 3)), [0] * 10, batch_size=2, progress=True)
        assert "5/5" in capsys.readouterr().err

    def test_more_rows_than_one_request(self, server: Server) -> None:
        x = np.random.default_rng(0).normal(size=(2500, 3))
        with server.client() as client:
            handle = client.task("sdk-long", outputs=2).partial_fit(x[:10], [0, 1] * 5)
            assert handle.predict(x).shape == (2500,)
            assert 0 <= handle.score(x, [0] * 2500) <= 1

    def test_a_handle_without_a_schema_asks_what_the_labels_are(self, server: Server) -> None:
        x = np.random.default_rng(0).normal(size=(64, 3))
        y = 1 + (x[:, 0] > 0).astype(int)
        with server.client() as client:
            client.task("sdk-shifted", labels=[1, 2]).fit(x, y, epochs=30, seed=0)
            other = client.task("sdk-shifted")
            assert other.score(x, y) > 0.9
            assert other.score(x, y.astype(float)) > 0.9
            assert set(other.predict(x)) == {1, 2}
            assert other.partial_fit(x, y).last_update is not None
            client.task("sdk-numbers", outputs=1, loss="mse").fit(x, x[:, 0], epochs=30, seed=0)
            bare = client.task("sdk-numbers")
            assert bare.score(x, x[:, :1]) == pytest.approx(bare.score(x, x[:, 0]))
            assert bare.score(x, x[:, 0]) > 0.5
            assert bare.predict(x).shape == (64,)
            assert bare.score(x, np.ones(64)) == 0.0

    def test_handles_of_composed_contexts(self, server: Server) -> None:
        x = np.random.default_rng(0).normal(size=(64, 3))
        y = (x[:, 0] > 0).astype(int)
        with server.client() as client:
            client.task(task("sdk-part"), outputs=2).fit(x, y, epochs=30, seed=0)
            mixed = client.task("mix(sdk-part:0.9,sdk-part:0.1)")
            assert mixed.score(x, y) > 0.9
            assert mixed.partial_fit(x, y).last_update is not None
            with pytest.raises(ValueError, match="composed"):
                client.task(mixture({"a": 1}), labels=[0, 1])

    def test_a_handle_of_a_group_and_a_key_is_a_task_in_that_group(self, server: Server) -> None:
        x = np.random.default_rng(0).normal(size=(32, 3))
        y = (x[:, 0] > 0).astype(int)
        with server.client() as client:
            client.task("sdk-group", outputs=2).partial_fit(x, y)
            member = client.task("sdk-group/sdk-member", labels=["no", "yes"])
            member.partial_fit(x, np.where(y, "yes", "no"))
            assert client.get_task("sdk-member").group == "sdk-group"
            assert set(member.predict(x)) <= {"no", "yes"}
            assert client.task("sdk-group/sdk-member").score(x, np.where(y, "yes", "no")) >= 0.0
            with pytest.raises(ValueError, match="not in other"):
                client.task("sdk-group/sdk-member", outputs=2, group="other")

    def test_a_deleted_task_is_registered_again_by_the_next_rows(self, server: Server) -> None:
        with server.client() as client:
            handle = client.task("sdk-again", outputs=2).partial_fit(np.ones((2, 3)), [0, 1])
            client.delete_task("sdk-again")
            with pytest.raises(UnknownTask):
                handle.partial_fit(np.ones((2, 3)), [0, 1])
            handle.partial_fit(np.ones((2, 3)), [0, 1])
            assert client.get_task("sdk-again").rows_seen == 2

    def test_torch_tensors_are_rows_too(self, server: Server) -> None:
        import torch

        with server.client() as client:
            client.task("sdk-tensors", outputs=2).partial_fit(torch.ones(2, 3), torch.tensor([0, 1]))
            assert client.infer("sdk-tensors", torch.ones(2, 3)).labels is not None

    def test_mistakes_are_named(self, server: Server) -> None:
        with server.client() as client:
            with pytest.raises(UnknownTask):
                client.task("sdk-nobody").partial_fit(np.ones((2, 3)), [0, 1])
            handle = client.task("sdk-mistakes", outputs=2).partial_fit(np.ones((2, 3)), [0, 1])
            with pytest.raises(ShapeMismatch):
                handle.predict(np.ones((2, 4)))
            with pytest.raises(LabelOutOfRange):
                handle.partial_fit(np.ones((1, 3)), [2])
            with pytest.raises(NonFiniteInput, match="not finite"):
                handle.predict(np.array([[0.0, 1.0, np.nan]]))
            with pytest.raises(ValueError, match="3 targets"):
                handle.fit(np.ones((2, 3)), [0, 1, 1])
            with pytest.raises(ExpressionInvalid, match="not a task key"):
                client.delete_task("")
            with pytest.raises(EmptyBatch):
                handle.predict(np.ones((0, 3)))

    def test_the_rest_of_the_api(self, server: Server) -> None:
        with server.client() as client:
            client.register_task("sdk-rest-1", outputs=2, inputs=3)
            client.register_task("sdk-rest-2", labels=["p", "q"], inputs=3)
            assert [info.key for info in client.list_tasks("sdk-rest")] == ["sdk-rest-1", "sdk-rest-2"]
            mixed = client.infer(None, [[1, 2, 3]] * 2, contexts=["sdk-rest-1", "sdk-rest-2"])
            assert mixed.labels is not None
            assert mixed.labels[0] in {0, 1}
            assert mixed.labels[1] in {"p", "q"}
            assert client.model(mixture({"sdk-rest-1": 1, "sdk-rest-2": 2}))[8:9] == b"{"
            snapshot = client.take_snapshot()
            assert snapshot in client.list_snapshots()
            assert client.capacity().tasks == client.store().tasks
            made = client.register_task(
                "sdk-rest-3", labels=range(2), inputs=3, composition=mixture({"sdk-rest-1": 1}), scale=np.ones(3)
            )
            assert made.labels == [0, 1]
            client.delete_task("sdk-rest-3")
            client.delete_task("sdk-rest-1")
            with pytest.raises(UnknownTask):
                client.get_task("sdk-rest-1")
            assert client.ready()


def test_the_asynchronous_client(server: Server) -> None:
    async def scenario() -> None:
        x = np.random.default_rng(0).normal(size=(64, 3))
        y = (x[:, 0] > 0).astype(int)
        async with AsyncClient(server.url) as client:
            handles = [client.task(f"sdk-async-{n}", labels=[0, 1]) for n in range(4)]
            await asyncio.gather(*(handle.fit(x, y, epochs=30, seed=0) for handle in handles))
            scores = await asyncio.gather(*(handle.score(x, y) for handle in handles))
            assert min(scores) > 0.9
            assert (await handles[0].predict(x)).shape == (64,)
            assert (await handles[0].predict_proba(x)).shape == (64, 2)
            assert len(await client.list_tasks("sdk-async-")) == 4
            assert await client.ready()
            with pytest.raises(UnknownTask):
                await client.infer("sdk-async-nobody", x)

    asyncio.run(scenario())


def test_answers_may_grow() -> None:
    """A later server's answers have fields that this client does not know, at every depth."""
    every = [kind for kind in vars(models).values() if isinstance(kind, type)]
    answers = [kind for kind in every if issubclass(kind, models._Answer)]
    assert len(answers) > 10
    for kind in answers:
        assert kind.model_config["extra"] == "ignore", kind
    body: dict[str, Any] = dict.fromkeys(("labels", "offset", "scale", "quarantined"))
    body |= {"key": "a", "outputs": 2, "inputs": 1, "loss": "mse", "description": "", "keep_rows": True}
    body |= {"rows_seen": 0, "updates": 0, "last_sequence": 1, "new": {"deep": [1]}}
    body |= {"prequential": {"accuracy": None, "loss": 1.0, "new": 2}}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    with superposed_client.Client("http://test", transport=transport) as client:
        assert client.get_task("a").prequential.loss == 1.0


def test_a_problem_newer_than_the_client_is_still_one() -> None:
    problem = {"type": "urn:superposed:problem:new", "detail": "it is new"}
    transport = httpx.MockTransport(lambda _: httpx.Response(418, json=problem))
    client = superposed_client.Client("http://test", transport=transport)
    with client, pytest.raises(superposed_client.ApiError, match="it is new"):
        client.store()


def test_a_task_is_named_with_its_group_everywhere(server: Server) -> None:
    with server.client() as client:
        client.register_task("house", outputs=2, inputs=3)
        client.register_task("member", outputs=2, inputs=3, group="house")
        client.update("house/member", np.ones((2, 3)), [0, 1])
        assert client.get_task("house/member").key == "member"
        assert client.evaluations("house/member") == []
        with pytest.raises(UnknownTask):
            client.get_task("other/member")
        with pytest.raises(UnknownTask):
            client.delete_task("member/house")
        assert client.erase_rows("house/member").records == 1
        client.delete_task("house/member")
        with pytest.raises(UnknownTask):
            client.get_task("member")
