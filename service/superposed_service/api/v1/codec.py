"""Bytes to values and back: JSON bodies in, checked; answers out, straight from arrays."""

import json
import math
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from superposed.errors import NonFiniteInput, redacted
from superposed.tasks.schema import TaskSchema
from superposed_service.api.tensors import DATATYPE_OF, TENSORS_MEDIA_TYPE, TensorReader, split
from superposed_service.api.v1.schemas import ReturnField
from superposed_service.engine.batcher import InferenceResult
from superposed_service.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

M = TypeVar("M", bound=BaseModel)
# Fields that only rows of cross-entropy tasks have.
_OF_CLASSES = frozenset({"labels", "probabilities", "confidence", "top_k"})
_JSON = "application/json"
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def read_body(model: type[M], body: bytes, content_type: str | None, head_length: str | None = None) -> M:
    """Read a body into a checked value: JSON, or JSON with binary tensors; of duplicate keys the last wins.

    Raise `UnsupportedMediaType` where the body says that it is something else; `NonFiniteInput` where it holds NaN or
    Infinity, which JSON does not have; `InvalidRequest` where it is not JSON, or a field is missing, unknown or of the
    wrong kind.
    """
    kind = (content_type or _JSON).partition(";")[0].strip().lower()
    if kind not in {_JSON, TENSORS_MEDIA_TYPE}:
        wanted = f"{_JSON} or {TENSORS_MEDIA_TYPE}"
        raise UnsupportedMediaType("a body of the wrong kind", expected=wanted, received=kind)
    values = _parse(body) if kind == _JSON else _read_tensors(body, head_length)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{place}: {message}", received=_shown(first["input"], first["loc"])) from None


def _read_tensors(body: bytes, head_length: str | None) -> Any:
    """Read a JSON head whose `{"datatype", "shape"}` fields stand for the tensors after it, in order."""
    head, data = split(body, head_length)
    values, reader = _parse(head), TensorReader(data)
    if isinstance(values, dict):
        for name, value in values.items():
            if isinstance(value, dict) and "datatype" in value:
                array = reader.take(name, value["datatype"], value.get("shape"))
                array = array.astype(np.uint8) if array.dtype.kind == "b" and name == "inputs" else array
                values[name] = array if name == "inputs" else array.tolist()
    reader.finish()
    return values


def inflate(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body without its `Content-Encoding`.

    Raise `UnsupportedMediaType` where the encoding is not read here; `InvalidRequest` where it is not encoded so;
    `PayloadTooLarge` where it would have more than `most` bytes.
    """
    if encoding == "identity":
        return body
    if encoding not in _WINDOWS:
        wanted = f"one of {list(_WINDOWS)}"
        raise UnsupportedMediaType("a body in an encoding that is not read", expected=wanted, received=encoding)
    reader = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = reader.decompress(body, most + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding}: {error}") from None
    if len(plain) > most:
        raise PayloadTooLarge("the request's body is too large", expected=f"{most} bytes at most, inflated")
    if not reader.eof:
        raise InvalidRequest(f"the {encoding} body ends too early")
    return plain


def read_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object; raises as `read_body`."""
    values = _parse(body)
    if not isinstance(values, dict):
        raise InvalidRequest("the body is no JSON object", received=_shown(values))
    return values


# Fields that hold rows, labels, or what was made from them.
_DATA = {"inputs", "records", "texts", "images", "targets", "labels", "add_labels"}
_DATA |= {"offset", "scale", "description", "features"}


def _shown(value: object, place: Sequence[object] = ()) -> str:
    """Return a value as an error shows it: short, never a whole body, and no client's data."""
    if _DATA & set(place):
        return redacted(value)
    if isinstance(value, dict):
        return f"an object with {sorted(str(key) for key in value)[:10]}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value)[:100]


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        _refuse_non_finite(body)
        raise InvalidRequest(f"the body is not JSON: {error}") from None


# A second reading in Python of a larger body would hold everybody else up.
_READ_AGAIN_BYTES = 2**20
_CONSTANT = re.compile(rb"[\[,:\s](NaN|-?Infinity)\s*[\],}]")


def read_context(text: str) -> object:
    """Return a context in a query: text, or its JSON form where it starts with a brace; raises as `read_body`."""
    return _parse(text.encode()) if text.startswith("{") else text


def _refuse_non_finite(body: bytes) -> None:
    """Tell NaN, Infinity and numbers beyond a double (1e999) apart from other broken JSON."""
    found: list[str] = []

    def note(text: str) -> None:
        if not math.isfinite(float(text)):
            found.append(text[:100])

    if len(body) <= _READ_AGAIN_BYTES:
        with suppress(ValueError, RecursionError):
            json.loads(body, parse_constant=note, parse_float=note)
    elif constant := _CONSTANT.search(body):
        note(constant[1].decode())
    if found:
        raise NonFiniteInput("the body holds a number that is not finite", expected="finite numbers", received=found[0])


def dump_tensors(values: dict[str, Any]) -> tuple[bytes, int]:
    """Return JSON in which columns of numbers are binary tensors behind it, and the length of its JSON head."""
    head: dict[str, Any] = {}
    tensors: list[bytes] = []
    for name, value in values.items():
        array = _as_array(value)
        if array is None:
            head[name] = value
        else:
            head[name] = {"datatype": DATATYPE_OF[array.dtype], "shape": array.shape}
            tensors.append(array.tobytes())
    text = dump(head)
    return b"".join([text, *tensors]), len(text)


def _as_array(column: Any) -> NDArray[Any] | None:
    """Return a column of equally long rows of numbers, or of whole numbers, as an array; None for others."""
    if not isinstance(column, list) or not column:
        return None
    if all(isinstance(row, np.ndarray) and row.shape == column[0].shape for row in column):
        return np.stack(column)
    return np.asarray(column, dtype="<i8") if all(type(row) is int for row in column) else None


def dump(value: object) -> bytes:
    """Return JSON of plain values and numpy arrays; numbers in their shortest exact form."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def render_answer(answer: InferenceResult, wanted: list[ReturnField] | None, k: int = 5) -> dict[str, Any]:
    """Return the `wanted` fields of an inference answer, with `k` labels in `top_k`.

    Without `wanted` they are the default fields of the rows' tasks. Raise `InvalidRequest` for a field that applies
    to none of the rows.
    """
    possible = {"logits"} if answer.in_scope is None else {"logits", "in_scope"}
    for task in answer.tasks:
        possible |= {"values"} if task.loss == "mse" else set(_OF_CLASSES)
    fields = list(wanted) if wanted is not None else sorted(possible - {"logits", "top_k"})
    for field in fields:
        if field not in possible:
            some = f"some of {sorted(possible)}"
            raise InvalidRequest("return: a field that these tasks do not have", expected=some, received=field)
    columns = {field: _column(answer, field, k) for field in fields if field != "in_scope"}
    if answer.in_scope is not None:
        columns |= {"in_scope": answer.in_scope.tolist()} if "in_scope" in fields else {}
        if "labels" in columns:
            pairs = zip(columns["labels"], answer.in_scope, strict=True)
            columns["labels"] = [label if good else None for label, good in pairs]
    times = "labels" in columns and any(task.label_form for task in answer.tasks)
    return {"sequence": answer.sequence, **columns} | ({"label_form": "datetime"} if times else {})


def _column(answer: InferenceResult, field: str, k: int) -> list[Any]:
    if len(answer.tasks) == 1:
        task = answer.tasks[0]
        return _values(answer.logits[:, : task.outputs], task, answer.temperatures[0], field, k)
    column: list[Any] = [None] * len(answer.places)
    for place, task in enumerate(answer.tasks):
        if (field in _OF_CLASSES and task.loss == "mse") or (field == "values" and task.loss != "mse"):
            continue
        rows = np.flatnonzero(answer.places == place)
        values = _values(answer.logits[rows, : task.outputs], task, answer.temperatures[place], field, k)
        for row, value in zip(rows.tolist(), values, strict=True):
            column[row] = value
    return column


def _values(logits: NDArray[Any], task: TaskSchema, temperature: float, field: str, k: int) -> list[Any]:
    if field == "labels":
        return named(task, logits.argmax(1).tolist())
    if field == "probabilities":
        return list(probabilities(logits, temperature))
    if field == "confidence":
        return list(probabilities(logits, temperature).max(1).tolist())
    if field == "top_k":
        shares = probabilities(logits, temperature)
        order = np.argsort(-shares, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(shares, order, axis=1)
        return [
            [{"label": label, "probability": share} for label, share in zip(named(task, row), own, strict=True)]
            for row, own in zip(order.tolist(), best.tolist(), strict=True)
        ]
    return list(np.ascontiguousarray(logits))


def named(task: TaskSchema, classes: list[int]) -> list[Any]:
    """Return the labels of class indexes; of a task without labels the indexes."""
    return classes if task.labels is None else [task.labels[index] for index in classes]


def probabilities(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[Any]:
    """Return softmax of each row over a temperature, (B, n), in the dtype of the logits."""
    raised = np.exp((logits - logits.max(1, keepdims=True)) / logits.dtype.type(temperature))
    shares: NDArray[Any] = raised / raised.sum(1, keepdims=True)
    return shares
