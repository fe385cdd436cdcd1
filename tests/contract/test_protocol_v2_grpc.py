"""The Open Inference Protocol over gRPC, with an unmodified tritonclient: synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from fastapi import FastAPI
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from demo.server_process import free_port
from superposed_service.api.app import create_api
from superposed_service.api.v2.protobuf import MESSAGES, SERVICE
from superposed_service.errors import StorageUnavailable
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory, serving
from tests.helpers.protocol_v2 import DTYPES, LABELS, ROWS, native, register_tasks

PORT = free_port()


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = make_directory(tmp_path_factory.mktemp("grpc") / "store")
    with serving(path, grpc_address=f"127.0.0.1:{PORT}") as client:
        register_tasks(client)
        yield client


class Caller:
    """One call of either client, as if it were the same."""

    def __init__(self, kind: str, headers: dict[str, str] | None = None) -> None:
        self._kind, self._headers = kind, headers

    def __call__(self, name: str, *args: Any, **more: Any) -> Any:
        if name not in {"is_server_live", "is_server_ready", "is_model_ready"} and name.startswith("get_"):
            more["as_json"] = True
        more["headers"] = self._headers
        url = f"127.0.0.1:{PORT}"
        if self._kind == "sync":
            with triton.InferenceServerClient(url) as client:
                return getattr(client, name)(*args, **more)

        async def run() -> Any:
            async with triton_aio.InferenceServerClient(url) as client:
                call: Callable[..., Awaitable[Any]] = getattr(client, name)
                return await call(*args, **more)

        return asyncio.run(run())


@pytest.fixture(params=["sync", "aio"])
def call(http: httpx.Client, request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


def rows_input(rows: Any = ROWS, datatype: str = "FP32") -> triton.InferInput:
    tensor = triton.InferInput("input", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows)
    return tensor


def test_health_and_metadata(call: Caller) -> None:
    assert call("is_server_live")
    assert call("is_server_ready")
    assert call("is_model_ready", "mix(digits:0.5,plain:0.5)")
    for model, version in (("nobody", ""), ("digits", "99")):
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            call("is_model_ready", model, version)
    server = call("get_server_metadata")
    assert server["name"] == "superposed"
    assert "binary_tensor_data" in server["extensions"]
    model = call("get_model_metadata", "digits")
    assert model["inputs"][0] == {"name": "input", "datatype": "FP32", "shape": ["-1", "64"]}
    assert [one["name"] for one in model["outputs"]] == ["probabilities", "labels", "classes", "logits"]
    assert call("get_model_metadata", "digits", model["versions"][0]) == model
    config = call("get_model_config", "line")["config"]
    assert config["output"][0] == {"name": "values", "data_type": "TYPE_FP32", "dims": ["2"]}
    assert config["input"][0]["dims"] == ["64"]
    assert config["input"][1]["data_type"] == "TYPE_STRING"


def test_repository(call: Caller, http: httpx.Client) -> None:
    index = call("get_model_repository_index")["models"]
    assert {one["name"] for one in index} == {"digits", "plain", "few", "line", "rot"}
    before = native(http, "digits")
    call("unload_model", "digits")
    call("load_model", "digits")
    assert native(http, "digits") == before
    with pytest.raises(InferenceServerException):
        call("load_model", "nobody")


def test_infer_every_output(call: Caller, http: httpx.Client) -> None:
    names = ["logits", "probabilities", "labels", "classes"]
    outputs = [triton.InferRequestedOutput(name) for name in names]
    answer = call("infer", "digits", [rows_input()], outputs=outputs, request_id="r1")
    wanted = native(http, "digits", **{"return": ["logits", "probabilities", "labels"]})
    for name in ("logits", "probabilities"):
        np.testing.assert_allclose(answer.as_numpy(name), wanted[name], rtol=1e-5, atol=1e-6)
    assert [one.decode() for one in answer.as_numpy("labels")] == wanted["labels"]
    assert [LABELS[number] for number in answer.as_numpy("classes")] == wanted["labels"]
    response = answer.get_response()
    assert (response.id, response.model_name) == ("r1", "digits")


@pytest.mark.parametrize(("dtype", "datatype"), [*(DTYPES | {"f2": "FP16"}).items()])
def test_other_datatypes(call: Caller, http: httpx.Client, dtype: str, datatype: str) -> None:
    rows = (ROWS * 5).astype(dtype)
    answer = call("infer", "plain", [rows_input(rows, datatype)])
    wanted = native(http, "plain", rows.astype(float))["probabilities"]
    np.testing.assert_allclose(answer.as_numpy("probabilities"), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["mix(digits:0.7,plain:0.3)", "rot^1.25", "mix(rot^-2:1,plain:3)"])
def test_compositions_are_models(call: Caller, http: httpx.Client, model: str) -> None:
    answer = call("infer", model, [rows_input()])
    wanted = native(http, model)["probabilities"]
    np.testing.assert_allclose(answer.as_numpy("probabilities"), wanted, rtol=1e-5, atol=1e-6)


def test_a_context_for_each_row(call: Caller, http: httpx.Client) -> None:
    names = ["rot^2", "few", "digits"]
    contexts = triton.InferInput("context", [3], "BYTES")
    contexts.set_data_from_numpy(np.array([name.encode() for name in names], dtype=object))
    answer = call("infer", "plain", [rows_input(), contexts])
    for row, numbers in zip(answer.as_numpy("probabilities"), native(http, names)["probabilities"], strict=True):
        np.testing.assert_allclose(row[: len(numbers)], numbers, rtol=1e-5, atol=1e-6)


def test_versions_statistics_errors(call: Caller) -> None:
    [current] = call("get_model_metadata", "digits")["versions"]
    assert call("infer", "few", [rows_input()], model_version=current) is not None
    found = call("get_inference_statistics", "few")["model_stats"][0]
    assert int(found["inference_count"]) >= 3
    with pytest.raises(InferenceServerException, match="no such version"):
        call("infer", "digits", [rows_input()], model_version="77")
    with pytest.raises(InferenceServerException, match="expected 64 features"):
        call("infer", "digits", [rows_input(ROWS[:, :5])])
    with pytest.raises(InferenceServerException, match="no task has this key"):
        call("infer", "nobody", [rows_input()])
    with pytest.raises(InferenceServerException, match="not a model's"):
        call("infer", "digits", [rows_input()], outputs=[triton.InferRequestedOutput("nothing")])


def test_a_stream_of_requests(http: httpx.Client) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(f"127.0.0.1:{PORT}") as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for number in range(50):
            client.async_stream_infer("digits", [rows_input()], request_id=str(number))
        client.async_stream_infer("nobody", [rows_input()], request_id="unknown")
        client.async_stream_infer("plain", [rows_input()], request_id="last")
        found = [answers.get(timeout=30) for _ in range(52)]
    assert [result.get_response().id for result, error in found if error is None] == [*map(str, range(50)), "last"]
    assert "nobody" in str(found[50][1])
    wanted = native(http, "digits", **{"return": ["probabilities"]})["probabilities"]
    np.testing.assert_allclose(found[0][0].as_numpy("probabilities"), wanted, rtol=1e-5, atol=1e-6)


def test_the_standard_health_service_and_reflection(http: httpx.Client) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{PORT}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            asked = health_pb2.HealthCheckRequest(service=service)
            assert stub.Check(asked).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service="other"))
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        described = DescriptorPool(database).FindServiceByName(SERVICE)
        assert described.methods_by_name["ModelInfer"].input_type.name == "ModelInferRequest"
        assert {"ModelStreamInfer", "ServerLive", "ModelStatistics"} <= set(described.methods_by_name)


def _stub_call(request: Any) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{PORT}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=type(request).SerializeToString,
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )
        return call(request, timeout=10)


def _asked(contents: dict[str, Any], datatype: str = "FP32", shape: tuple[int, ...] = (3, 64)) -> Any:
    described = {"name": "input", "datatype": datatype, "shape": shape, "contents": contents}
    return MESSAGES["ModelInferRequest"](model_name="plain", inputs=[described])


def test_contents_by_datatype(http: httpx.Client) -> None:
    wanted = native(http, "plain")["probabilities"]
    found = _stub_call(_asked({"fp32_contents": ROWS.reshape(-1).tolist()}))
    numbers = np.frombuffer(found.raw_output_contents[0], dtype="<f4").reshape(3, 10)
    np.testing.assert_allclose(numbers, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "asked",
    [
        _asked({"fp32_contents": [1.0]}),
        _asked({"uint_contents": [300] * 192}, "UINT8"),
        _asked({"fp32_contents": [1.0] * 192}, "FP16"),
        _asked({"fp32_contents": []}, "FP32", (0, 2**62)),
        MESSAGES["ModelInferRequest"](model_name="plain"),
        MESSAGES["ModelInferRequest"](model_name="plain", raw_input_contents=[b"x"]),
        MESSAGES["ModelInferRequest"](
            model_name="plain",
            inputs=[{"name": "input", "datatype": "FP32", "shape": [1, 64]}],
            raw_input_contents=[b"xyz"],
        ),
    ],
)
def test_bad_requests(http: httpx.Client, asked: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _stub_call(asked)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details()


def test_api_keys_hold_here_too(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr("tests.contract.test_protocol_v2_grpc.PORT", port)
    path = make_directory(tmp_path_factory.mktemp("grpc-keys") / "store")
    with serving(path, grpc_address=f"127.0.0.1:{port}") as client:
        for key in ("mine", "theirs"):
            client.post("/v1/tasks", json={"key": key, "outputs": 2})
        made = client.post("/v1/keys", json={"scope": "infer", "tasks": "mine*"}).json()
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            Caller("sync")("infer", "mine", [rows_input()])
        caller = Caller("sync", {"authorization": f"Bearer {made['key']}"})
        assert caller("infer", "mine", [rows_input()]).as_numpy("probabilities").shape == (3, 2)
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            caller("infer", "theirs", [rows_input()])
        index = caller("get_model_repository_index")["models"]
        assert [one["name"] for one in index] == ["mine"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:  # calls that stay open need a key; a check does not
            stub, asked = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
            assert stub.Check(asked).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                next(stub.Watch(asked))
            assert next(stub.Watch(asked, metadata=[("authorization", f"Bearer {made['key']}")])).status
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_stream_ends_with_its_api_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each message is admitted."""
    address, sent = f"127.0.0.1:{free_port()}", queue.Queue[Any]()
    with serving(make_directory(tmp_path_factory.mktemp("grpc-stream") / "store"), grpc_address=address) as client:
        client.post("/v1/tasks", json={"key": "plain", "outputs": 2})
        made = client.post("/v1/keys", json={"scope": "admin"}).json()
        head = {"authorization": f"Bearer {made['key']}"}
        with grpc.insecure_channel(address) as channel:
            call = channel.stream_stream(
                f"/{SERVICE}/ModelStreamInfer",
                request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
                response_deserializer=MESSAGES["ModelStreamInferResponse"].FromString,
            )
            answers = call(iter(sent.get, None), metadata=tuple(head.items()), timeout=30)
            asked = _asked({"fp32_contents": [0.0] * 192})
            sent.put(asked)
            assert not next(answers).error_message
            client.delete(f"/v1/keys/{made['id']}", headers=head).raise_for_status()
            sent.put(asked)
            assert "not good" in next(answers).error_message
            sent.put(None)
            assert list(answers) == []


def test_an_address_in_use_ends_the_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    """And the engine with it."""

    async def start(api: FastAPI) -> None:
        async with api.router.lifespan_context(api):
            raise AssertionError("it was started")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(grpc_address=f"127.0.0.1:{taken.getsockname()[1]}")
        with DataDirectory(make_directory(tmp_path_factory.mktemp("grpc-taken") / "store")) as directory:
            api = create_api(settings, directory)
            with pytest.raises(StorageUnavailable, match="cannot listen"):
                asyncio.run(start(api))
            assert not api.state.runtime.engine.ready


def test_of_a_stranger_no_body_is_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A call whose body never comes is answered all the same."""
    address, nothing_came = f"127.0.0.1:{free_port()}", threading.Event()

    def body() -> Iterator[bytes]:
        nothing_came.wait(30)
        yield from ()

    path = make_directory(tmp_path_factory.mktemp("grpc-strangers") / "store")
    with serving(path, grpc_address=address) as client, grpc.insecure_channel(address) as channel:
        client.post("/v1/keys", json={"scope": "infer"})
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        try:
            with pytest.raises(grpc.RpcError) as caught:
                call(body(), timeout=20)
        finally:
            nothing_came.set()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert dict(caught.value.trailing_metadata())["retry-after"] == "1"
        nobody = channel.unary_unary("/inference.GRPCInferenceService/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            nobody(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_bodies_are_bounded_together(tmp_path_factory: pytest.TempPathFactory) -> None:
    address = f"127.0.0.1:{free_port()}"
    path = make_directory(tmp_path_factory.mktemp("grpc-held") / "store")
    with serving(path, grpc_address=address, max_inflight_bytes=1024), grpc.insecure_channel(address) as channel:
        infer, live = (channel.unary_unary(f"/{SERVICE}/{name}") for name in ("ModelInfer", "ServerLive"))
        for body, code in ((b"x" * 2000, "UNAVAILABLE"), (b"\xff", "INVALID_ARGUMENT")):
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as caught:
                    infer(body)
                assert caught.value.code().name == code
        live(b"")
