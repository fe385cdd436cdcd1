"""The binary tensor form: the same answers, and clear errors for whatever is no such body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from superposed.errors import SuperposedError
from superposed_service.api.tensors import DATATYPES, HEAD_LENGTH, TENSORS_MEDIA_TYPE, TensorReader, dump_bytes, split
from superposed_service.api.v1.codec import read_body
from superposed_service.api.v1.schemas import UpdateBody
from tests.helpers.http import ROW, problem, register

ROWS = np.array([ROW, ROW[::-1]], dtype=np.float32)


def send(
    http: httpx.Client, route: str, head: dict[str, Any], *arrays: np.ndarray, length: object = None
) -> httpx.Response:
    text = json.dumps(head).encode()
    headers = {
        "Content-Type": TENSORS_MEDIA_TYPE,
        "Accept": TENSORS_MEDIA_TYPE,
        "Inference-Header-Content-Length": str(len(text) if length is None else length),
    }
    return http.post(route, content=text + b"".join(array.tobytes() for array in arrays), headers=headers)


def tensor(array: np.ndarray) -> dict[str, Any]:
    names = {dtype: name for name, dtype in DATATYPES.items()}
    return {"datatype": names[array.dtype], "shape": list(array.shape)}


def read(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == TENSORS_MEDIA_TYPE
    head, data = split(answer.content, answer.headers["inference-header-content-length"])
    reader = TensorReader(data)
    values: dict[str, Any] = {
        name: reader.take(name, value["datatype"], value["shape"]) if isinstance(value, dict) else value
        for name, value in json.loads(head).items()
    }
    reader.finish()
    return values


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "u1", "<i8"])
def test_the_same_as_json(http: httpx.Client, dtype: str) -> None:
    register(http)
    rows = ROWS.astype(dtype)
    wanted = {"context": "digits", "inputs": rows.tolist(), "return": ["labels", "probabilities", "logits"]}
    plain = http.post("/v1/infer", json=wanted).json()
    found = read(send(http, "/v1/infer", wanted | {"inputs": tensor(rows)}, rows))
    assert found["labels"] == plain["labels"]
    for field in ("probabilities", "logits"):
        assert found[field].dtype == np.float32
        np.testing.assert_allclose(found[field], plain[field], rtol=1e-6)


def test_updates_in_either_form_teach_the_same(http: httpx.Client) -> None:
    register(http, "one", labels=None, outputs=10)
    targets = np.array([3, 4])
    head = {"context": "one", "inputs": tensor(ROWS), "targets": tensor(targets), "steps": 2}
    binary = send(http, "/v1/update", head, ROWS, targets)
    assert binary.json()["rows"] == 2
    logits = http.post("/v1/infer", json={"context": "one", "inputs": [ROW], "return": ["logits"]}).json()
    http.post("/v1/rollback", json={"to_sequence": 1})
    body = {"context": "one", "inputs": ROWS.tolist(), "targets": [3, 4], "steps": 2}
    assert http.post("/v1/update", json=body).json()["loss"] == binary.json()["loss"]
    again = http.post("/v1/infer", json={"context": "one", "inputs": [ROW], "return": ["logits"]}).json()
    assert again["logits"] == logits["logits"]
    measured = send(http, "/v1/evaluate", {k: head[k] for k in ("context", "inputs", "targets")}, ROWS, targets)
    assert measured.json()["rows"] == 2


def test_columns_without_one_shape_stay_json(http: httpx.Client) -> None:
    register(http, "wide")
    register(http, "two", labels=["a", "b"], outputs=None)
    head = {"contexts": ["wide", "two"], "inputs": tensor(ROWS), "return": ["logits"]}
    found = read(send(http, "/v1/infer", head, ROWS))
    assert [len(row) for row in found["logits"]] == [10, 2]


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        (lambda head, _: head["inputs"].update(datatype="FP8"), "invalid-request"),
        (lambda head, _: head["inputs"].update(datatype=["FP32"]), "invalid-request"),
        (lambda head, _: head["inputs"].update(shape=[3, 64]), "invalid-request"),
        (lambda head, _: head["inputs"].update(shape=[1, 64]), "invalid-request"),
        (lambda head, _: head["inputs"].update(shape=[2**40, 2**40]), "shape-mismatch"),
        (lambda head, _: head["inputs"].update(shape=[0, 2**62]), "shape-mismatch"),
        (lambda head, _: head["inputs"].update(shape=[0, 2**70]), "shape-mismatch"),
        (lambda head, _: head["inputs"].update(shape=[-2, -64]), "shape-mismatch"),
        (lambda head, _: head["inputs"].update(shape=[True, 64]), "shape-mismatch"),
        (lambda head, _: head["inputs"].update(shape=[1] * 9), "shape-mismatch"),
        (lambda head, _: head["inputs"].pop("shape"), "shape-mismatch"),
        (lambda head, _: head["inputs"].update(shape=[2, 8, 8]), "shape-mismatch"),
        (lambda head, rows: rows.__setitem__((1, 5), np.nan), "non-finite-input"),
        (lambda head, rows: rows.__setitem__((1, 5), np.inf), "non-finite-input"),
    ],
)
def test_bad_tensors(http: httpx.Client, change: Callable[..., object], slug: str) -> None:
    register(http)
    rows = ROWS.copy()
    head = {"context": "digits", "inputs": tensor(rows)}
    change(head, rows)
    problem(send(http, "/v1/infer", head, rows), 422, slug)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "99999999", "9" * 30, "1_0", 5])
def test_bad_head_lengths(http: httpx.Client, length: object) -> None:
    answer = send(http, "/v1/infer", {"context": "digits", "inputs": tensor(ROWS)}, ROWS, length=length)
    problem(answer, 422, "invalid-request")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_comes_is_read_or_refused(data: st.DataObject) -> None:
    arrays = data.draw(
        st.lists(npst.arrays(st.sampled_from(list(DATATYPES.values())), npst.array_shapes(max_side=4)), max_size=2)
    )
    names = ["inputs", "targets"][: len(arrays)]
    head: dict[str, Any] = {"context": "a"} | {n: tensor(a) for n, a in zip(names, arrays, strict=True)}
    text = json.dumps(head).encode()
    body = bytearray(text + b"".join(array.tobytes() for array in arrays))
    for _ in range(data.draw(st.integers(0, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: len(body) - data.draw(st.integers(0, 3))]
    length = data.draw(st.sampled_from([len(text), len(text) + 1, 0, len(body)]))
    try:
        read_body(UpdateBody, bytes(body), TENSORS_MEDIA_TYPE, str(length))
    except SuperposedError:
        return


def test_bytes_tensors() -> None:
    elements = [b"", b"a", b"mix(a:1,b:2)"]
    raw = dump_bytes(elements)
    assert TensorReader(memoryview(raw)).take("x", "BYTES", [3], len(raw)).tolist() == elements
    for shape, size, data in (
        ([2], len(raw), raw), ([4], len(raw), raw), ([3], len(raw) + 1, raw), ([3], True, raw),
        ([3], None, raw), ([70_000], 280_000, b"\0" * 280_000), ([1], 4, b"\xff\xff\xff\xff"),
        ([2**60], 8, b"\0" * 8),
    ):  # fmt: skip
        with pytest.raises(SuperposedError):
            TensorReader(memoryview(data)).take("x", "BYTES", shape, size)


def test_booleans_are_one_and_zero_in_every_form(http: httpx.Client) -> None:
    register(http)
    truth = [number % 3 == 0 for number in range(64)]
    numbers = {"context": "digits", "inputs": [[int(one) for one in truth]]}
    expected = http.post("/v1/infer", json=numbers).json()
    assert http.post("/v1/infer", json=numbers | {"inputs": [truth]}).json() == expected
    assert http.post("/v1/infer", json=numbers | {"inputs": [[*truth[:-1], 1]]}).json() == expected
    head = json.dumps({"context": "digits", "inputs": {"datatype": "BOOL", "shape": [1, 64]}}).encode()
    headers = {"Content-Type": "application/vnd.superposed.tensors", HEAD_LENGTH: str(len(head))}
    answer = http.post("/v1/infer", content=head + bytes(truth), headers=headers)
    assert answer.json() == expected
    update = {"context": "digits", "inputs": {"datatype": "BOOL", "shape": [1, 64]}, "targets": ["1"]}
    head = json.dumps(update).encode()
    answer = http.post("/v1/update", content=head + bytes(truth), headers=headers | {HEAD_LENGTH: str(len(head))})
    assert answer.status_code == 200, answer.text
