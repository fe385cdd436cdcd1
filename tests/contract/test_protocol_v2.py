"""The Open Inference Protocol, with an unmodified tritonclient: synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.conftest import GIVEN_URL, make_directory, serving
from tests.helpers.protocol_v2 import DTYPES, LABELS, ROWS, native, register_tasks
from tests.service.test_follower import following


@pytest.fixture(scope="module", params=["alone", "follower", "promoted"] if GIVEN_URL is None else ["given"])
def http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server; a follower, which answers what its leader does; and a follower that was made the leader."""
    if GIVEN_URL is not None:
        with httpx.Client(base_url=GIVEN_URL) as given:
            register_tasks(given)
            given.post("/v1/tasks", json={"key": "u42", "group": "digits", "labels": LABELS, "inputs": 64})
            yield given
        return
    folder = tmp_path_factory.mktemp("v2")
    with serving(make_directory(folder / "store")) as leader:
        register_tasks(leader)
        leader.post("/v1/tasks", json={"key": "u42", "group": "digits", "labels": LABELS, "inputs": 64})
        if request.param == "alone":
            yield leader
            return
        with following(folder / "follower", leader) as follower:
            if request.param == "promoted":
                follower.post("/v1/replication/promote", json={}).raise_for_status()
            yield follower


class Caller:
    """One call of either client, as if it were the same."""

    def __init__(self, url: str, kind: str) -> None:
        self._url, self._kind = url.removeprefix("http://").rstrip("/"), kind
        self.module = triton if kind == "sync" else triton_aio

    def __call__(self, name: str, *args: Any, **more: Any) -> Any:
        if self._kind == "sync":
            with triton.InferenceServerClient(self._url) as client:
                return getattr(client, name)(*args, **more)

        async def run() -> Any:
            async with triton_aio.InferenceServerClient(self._url) as client:
                call: Callable[..., Awaitable[Any]] = getattr(client, name)
                return await call(*args, **more)

        return asyncio.run(run())


@pytest.fixture(params=["sync", "aio"])
def call(http: httpx.Client, request: pytest.FixtureRequest) -> Caller:
    return Caller(str(http.base_url), request.param)


def rows_input(rows: Any = ROWS, datatype: str = "FP32", *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("input", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


def test_health_and_metadata(call: Caller) -> None:
    assert call("is_server_live")
    assert call("is_server_ready")
    assert call("is_model_ready", "digits")
    assert call("is_model_ready", "mix(digits:0.5,plain:0.5)")
    assert not call("is_model_ready", "nobody")
    assert not call("is_model_ready", "digits", "99")
    server = call("get_server_metadata")
    assert server["name"] == "superposed"
    assert "binary_tensor_data" in server["extensions"]
    model = call("get_model_metadata", "digits")
    assert model["inputs"][0] == {"name": "input", "datatype": "FP32", "shape": [-1, 64]}
    assert [one["name"] for one in model["outputs"]] == ["probabilities", "labels", "classes", "logits"]
    assert call("get_model_metadata", "digits", model["versions"][0]) == model
    config = call("get_model_config", "line")
    assert config["output"][0] == {"name": "values", "data_type": "TYPE_FP32", "dims": [2]}


def test_repository(call: Caller, http: httpx.Client) -> None:
    index = call("get_model_repository_index")
    assert {one["name"] for one in index} == {"digits", "plain", "few", "line", "rot", "u42"}
    assert all(one["state"] == "READY" for one in index)
    before = native(http, "digits")
    call("unload_model", "digits")
    call("load_model", "digits")
    call("unload_model", "digits")
    assert call("is_model_ready", "digits")
    assert native(http, "digits") == before
    with pytest.raises(InferenceServerException):
        call("load_model", "nobody")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer_in_every_form(call: Caller, http: httpx.Client, binary_in: bool, binary_out: bool) -> None:
    names = ["logits", "probabilities", "labels", "classes"]
    outputs = [call.module.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    answer = call("infer", "digits", [rows_input(binary=binary_in)], outputs=outputs, request_id="r1")
    wanted = native(http, "digits", **{"return": ["logits", "probabilities", "labels"]})
    for name in ("logits", "probabilities"):
        np.testing.assert_allclose(answer.as_numpy(name), wanted[name], rtol=1e-5, atol=1e-6)
    texts = [one.decode() if isinstance(one, bytes) else one for one in answer.as_numpy("labels").tolist()]
    assert texts == wanted["labels"]
    assert [LABELS[number] for number in answer.as_numpy("classes")] == wanted["labels"]
    response = answer.get_response()
    assert (response["id"], response["model_name"]) == ("r1", "digits")


def test_default_outputs(call: Caller, http: httpx.Client) -> None:
    answer = call("infer", "digits", [rows_input()])
    names = [one["name"] for one in answer.get_response()["outputs"]]
    assert names == ["probabilities", "labels", "classes", "logits"]
    answer = call("infer", "line", [rows_input()])
    np.testing.assert_allclose(answer.as_numpy("values"), native(http, "line")["values"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "binary"), [("f2", True), *((dtype, binary) for dtype in DTYPES for binary in (True, False))]
)
def test_other_datatypes(call: Caller, http: httpx.Client, dtype: str, binary: bool) -> None:
    datatype = (DTYPES | {"f2": "FP16"})[dtype]
    rows = (ROWS * 5).astype(dtype)
    answer = call("infer", "plain", [rows_input(rows, datatype, binary=binary)])
    wanted = native(http, "plain", rows.astype(float))["probabilities"]
    np.testing.assert_allclose(answer.as_numpy("probabilities"), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["mix(digits:0.7,plain:0.3)", "rot^1.25", "mix(rot^-2:1,plain:3)"])
def test_compositions_are_models(call: Caller, http: httpx.Client, model: str) -> None:
    answer = call("infer", model, [rows_input()])
    wanted = native(http, model)["probabilities"]
    np.testing.assert_allclose(answer.as_numpy("probabilities"), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_a_context_for_each_row(call: Caller, http: httpx.Client, binary: bool) -> None:
    names = ["rot^2", "few", "digits"]
    contexts = triton.InferInput("context", [3], "BYTES")
    contexts.set_data_from_numpy(np.array([name.encode() for name in names], dtype=object), binary_data=binary)
    answer = call("infer", "plain", [rows_input(), contexts])
    wanted = native(http, names)["probabilities"]
    found = answer.as_numpy("probabilities")
    assert found.shape == (3, 10)
    for row, numbers in zip(found, wanted, strict=True):
        np.testing.assert_allclose(row[: len(numbers)], numbers, rtol=1e-5, atol=1e-6)
        assert not row[len(numbers) :].any()


def test_versions(call: Caller) -> None:
    [current] = call("get_model_metadata", "digits")["versions"]
    assert call("infer", "digits", [rows_input()], model_version=current) is not None
    with pytest.raises(InferenceServerException) as caught:
        call("infer", "digits", [rows_input()], model_version="77")
    assert "no such version" in str(caught.value)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies(call: Caller, http: httpx.Client, algorithm: str) -> None:
    answer = call("infer", "plain", [rows_input()], request_compression_algorithm=algorithm)
    assert answer.as_numpy("probabilities").shape == (3, 10)


def test_statistics(call: Caller) -> None:
    call("infer", "few", [rows_input()])
    before = call("get_inference_statistics", "few")["model_stats"][0]
    call("infer", "few", [rows_input()])
    after = call("get_inference_statistics", "few")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert any(one["name"] == "few" for one in call("get_inference_statistics")["model_stats"])


def test_errors_reach_the_client(call: Caller) -> None:
    wrong = ROWS[:, :5]
    with pytest.raises(InferenceServerException) as caught:
        call("infer", "digits", [rows_input(wrong)])
    assert "expected 64 features" in str(caught.value)
    with pytest.raises(InferenceServerException) as caught:
        call("infer", "nobody", [rows_input()])
    assert "no task has this key" in str(caught.value)
    output = call.module.InferRequestedOutput("nothing")
    with pytest.raises(InferenceServerException, match="not a model's"):
        call("infer", "digits", [rows_input()], outputs=[output])


GOOD = {"inputs": [{"name": "input", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64}]}


def test_nested_data_and_a_raw_body(http: httpx.Client) -> None:
    nested = {"inputs": [{"name": "input", "shape": [3, 64], "datatype": "FP32", "data": ROWS.tolist()}]}
    answer = http.post("/v2/models/plain/infer", json=nested | {"id": "x"}).json()
    assert answer["id"] == "x"
    assert answer["outputs"][0]["shape"] == [3, 10]
    headers = {"Inference-Header-Content-Length": "0"}
    raw = http.post("/v2/models/plain/infer", content=ROWS.tobytes(), headers=headers)
    assert raw.headers["content-type"] == "application/octet-stream"
    head = json.loads(raw.content[: int(raw.headers["inference-header-content-length"])])
    assert head["outputs"][0]["shape"] == [3, 10]
    assert head["outputs"][0]["parameters"]["binary_data_size"] == 120


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/v2/nothing", {}, 404),
        ("/v2/models/nobody/infer", {"json": GOOD}, 404),
        ("/v2/models/%7Bmodel%7D/infer", {"json": GOOD}, 422),
        ("/v2/models/digits/versions/9/infer", {"json": GOOD}, 404),
        ("/v2/models/digits/ready", {"json": GOOD}, 405),
        ("/v2/models/mix(/infer", {"json": GOOD}, 422),
        ("/v2/models/digits/infer", {"content": b"{"}, 422),
        ("/v2/models/digits/infer", {"content": b"[]"}, 422),
        ("/v2/models/digits/infer", {"json": {}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": {}}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": [{"name": "other"}]}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": GOOD["inputs"] * 2}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": [GOOD["inputs"][0] | {"datatype": "BYTES"}]}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": [GOOD["inputs"][0] | {"shape": [1, 63]}]}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": [GOOD["inputs"][0] | {"data": ["a"] * 64}]}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": [GOOD["inputs"][0] | {"data": None}]}}, 422),
        ("/v2/models/digits/infer", {"json": {"inputs": [GOOD["inputs"][0] | {"datatype": "INT8"}]}}, 422),
        (
            "/v2/models/digits/infer",
            {"json": {"inputs": [GOOD["inputs"][0] | {"datatype": "UINT8", "data": [300] * 64}]}},
            422,
        ),
        ("/v2/models/digits/infer", {"json": {"inputs": [GOOD["inputs"][0] | {"shape": [0, 2**62], "data": []}]}}, 422),
        ("/v2/models/digits/infer", {"json": GOOD | {"parameters": {"binary_data_output": 1}}}, 422),
        ("/v2/models/digits/infer", {"json": GOOD | {"parameters": []}}, 422),
        ("/v2/models/digits/infer", {"json": GOOD | {"outputs": [{"name": "values"}]}}, 422),
        ("/v2/models/digits/infer", {"content": b"x" * 250_000}, 413),
        ("/v2/models/digits/infer", {"content": b"x", "headers": {"Content-Encoding": "br"}}, 415),
        ("/v2/models/digits/infer", {"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 422),
        (
            "/v2/models/digits/infer",
            {"content": gzip.compress(b" " * 300_000), "headers": {"Content-Encoding": "gzip"}},
            413,
        ),
        (
            "/v2/models/digits/infer",
            {"content": zlib.compress(b"{}")[:-3], "headers": {"Content-Encoding": "deflate"}},
            422,
        ),
        ("/v2/models/digits/infer", {"content": b"123", "headers": {"Inference-Header-Content-Length": "0"}}, 422),
    ],
)
def test_every_refusal_is_an_error_body(http: httpx.Client, path: str, more: dict[str, Any], status: int) -> None:
    answer = http.post(path, **more)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]


def test_server_metadata_without_a_redirect(http: httpx.Client) -> None:
    for path in ("/v2", "/v2/"):
        assert http.get(path, follow_redirects=False).json()["name"] == "superposed"


def test_what_is_null_is_absent(http: httpx.Client) -> None:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
    plain = http.post("/v2/models/digits/infer", json={"inputs": [tensor]}).json()
    nothing = {"id": None, "parameters": None, "outputs": None, "inputs": [tensor | {"parameters": None}]}
    assert http.post("/v2/models/digits/infer", json=nothing).json() == plain
    assert "id" not in plain
    wanted = [{"name": "classes", "parameters": None}]
    answer = http.post("/v2/models/digits/infer", json=nothing | {"id": "", "outputs": wanted}).json()
    assert [one["name"] for one in answer["outputs"]] == ["classes"]
    answer = http.post(
        "/v2/models/digits/infer", json=nothing | {"id": "r", "parameters": {"binary_data_output": None}}
    )
    assert answer.json()["id"] == "r"


@pytest.mark.parametrize("slash", ["/", "%2F"])
@pytest.mark.parametrize("name", ["digits/u42", "mix(digits/u42:0.5,digits:0.5)"])
def test_a_name_with_a_slash_is_known_in_every_route(http: httpx.Client, name: str, slash: str) -> None:
    path, body = (
        f"/v2/models/{name.replace('/', slash)}",
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}]},
    )
    current = http.get("/v2/models/digits").json()["versions"][0]
    for model in (path, f"{path}/versions/{current}"):
        assert http.get(model).json()["name"] == name
        assert http.get(f"{model}/ready").json() == {"name": name, "ready": True}
        assert http.get(f"{model}/config").json()["name"] == name
        assert http.get(f"{model}/stats").status_code == 200
        answer = http.post(f"{model}/infer", json=body)
        assert answer.json()["model_name"] == name
    for action in ("load", "unload"):
        assert http.post(f"/v2/repository/models/{path.removeprefix('/v2/models/')}/{action}").status_code == 200
    assert http.get(path.replace("digits", "line", 1)).status_code == 404  # u42 is in another group
