"""Messages of the protocol: what is said of models (contexts, by their text), and inference, in JSON and tensors."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from superposed.errors import redacted
from superposed.store.store import WeightStore
from superposed.tasks.labels import label_text
from superposed.tasks.schema import TaskSchema
from superposed_service.api.auth import Principal
from superposed_service.api.tensors import DATATYPE_OF, DATATYPES, TensorReader, dump_bytes, read_shape, split
from superposed_service.api.v1 import codec
from superposed_service.changes.rows import Originals, RowBatch
from superposed_service.engine.batcher import InferenceResult
from superposed_service.errors import InvalidRequest, UnknownVersion
from superposed_service.runtime.runtime import Runtime

T = TypeVar("T")
# The names of a model's inputs.
INPUT, CONTEXT = "input", "context"


def server() -> dict[str, Any]:
    """Return the body of `GET /v2`."""
    extensions = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]
    return {"name": "superposed", "version": installed("superposed"), "extensions": extensions}


def check(runtime: Runtime, principal: Principal, model: str, version: str = "") -> None:
    """Check that the principal may name a model; raise `UnknownVersion` where another version is asked for."""
    principal.check_contexts([model])
    if version not in {"", runtime.version}:
        raise UnknownVersion(f"model {model} has no such version", expected=runtime.version, received=version)


async def ask(
    runtime: Runtime, principal: Principal, run: Callable[[WeightStore, str], T], model: str, version: str = ""
) -> T:
    """Return what a function of the store says of a model on the engine's thread; raises as `check`."""
    check(runtime, principal, model, version)
    return await runtime.engine.call(lambda store: run(store, model))


def schema_of(store: WeightStore, model: str) -> TaskSchema:
    """Return the schema of the task that preprocesses a model's rows; raises as `WeightStore.resolve`."""
    return store.resolve(model).task.schema


def outputs_of(schema: TaskSchema) -> dict[str, tuple[str, list[int]]]:
    """Return a model's outputs by name: datatype and shape, -1 for the rows; all are given by default."""
    numbers = ("FP32", [-1, schema.outputs])
    if schema.loss == "mse":
        return {"values": numbers, "logits": numbers}
    named = {"labels": ("BYTES", [-1])} if schema.labels is not None else {}
    scope = {"in_scope": ("BOOL", [-1])} if schema.abstain is not None else {}
    return {"probabilities": numbers, **named, "classes": ("INT64", [-1]), "logits": numbers, **scope}


def input_of(schema: TaskSchema) -> tuple[str, list[int]]:
    """Return datatype and shape of a model's rows: texts and images are BYTES; rows of FP32 are taken too."""
    return ("FP32", [-1, schema.inputs]) if schema.encoder is None else ("BYTES", [-1])


def metadata(schema: TaskSchema, model: str, current: str) -> dict[str, Any]:
    """Return the body of `GET /v2/models/{model}`."""
    label_type = {"parameters": {"label_type": schema.label_type}}  # of the labels, which the output holds as texts
    return {
        "name": model,
        "versions": [current],
        "platform": "superposed",
        "inputs": [
            dict(zip(("name", "datatype", "shape"), (INPUT, *input_of(schema)), strict=True)),
            {"name": CONTEXT, "datatype": "BYTES", "shape": [-1], "optional": True},
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shape} | (label_type if name == "labels" else {})
            for name, (datatype, shape) in outputs_of(schema).items()
        ],
    }


def config(schema: TaskSchema, model: str, most_rows: int) -> dict[str, Any]:
    """Return the body of `GET /v2/models/{model}/config`: Triton's fields that apply."""

    def field(name: str, datatype: str, shape: list[int], **more: bool) -> dict[str, Any]:
        kind = {"BYTES": "TYPE_STRING"}.get(datatype, f"TYPE_{datatype}")
        return {"name": name, "data_type": kind, "dims": shape[1:] or [1], **more}

    return {
        "name": model,
        "platform": "superposed",
        "backend": "superposed",
        "max_batch_size": most_rows,
        "input": [field(INPUT, *input_of(schema)), field(CONTEXT, "BYTES", [-1], optional=True)],
        "output": [field(name, *described) for name, described in outputs_of(schema).items()],
        "parameters": {"label_type": {"string_value": schema.label_type}} if schema.labels else {},
    }


def index(store: WeightStore, current: str) -> list[dict[str, str]]:
    """Return the body of `POST /v2/repository/index`: every task."""
    known = {"version": current, "state": "READY", "reason": ""}
    return [{"name": state.schema.key, **known} for state in store.tasks.all()]


def load(store: WeightStore, model: str) -> None:
    """Have a model's contexts ready; raises as `schema_of`."""
    store.contexts.bind_all(store.resolve(model).context)


def unload(store: WeightStore, model: str) -> None:
    """Give a model's contexts' memory back; the task stays, and its next request derives them again."""
    store.contexts.evict(store.resolve(model).context)


@dataclass(frozen=True)
class InferRequest:
    """An inference request: the rows with their contexts, and the request's own id, to be echoed.

    `wanted` are the outputs asked for, True where as binary; None for all that the rows' tasks have, which are
    binary as `binary` says.
    """

    rows: RowBatch
    wanted: Mapping[str, bool] | None
    binary: bool
    identifier: str


def read_request(body: bytes, head_length: str | None, model: str, width: int) -> InferRequest:
    """Read an inference request; rows have the context `model` where no input says otherwise.

    `head_length` is the value of `Inference-Header-Content-Length`, if there is one; 0 means that the body is one
    raw FP32 input, whose rows have `width` features. Raise `InvalidRequest` for what is no such request, `InputError`
    where a tensor in it is no rows.
    """
    if head_length is not None and head_length.strip() == "0":
        return InferRequest(RowBatch(model, None, _raw(body, width)), None, binary=True, identifier="")
    head, tensors = read_tensors(body, head_length, "inputs")
    wanted, binary = outputs_wanted(head)
    identifier = "" if head.get("id") is None else str(head["id"])[:1024]
    return InferRequest(rows_of(model, tensors), wanted, binary=binary, identifier=identifier)


def read_tensors(body: bytes, head_length: str | None, place: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a body's JSON, and the tensors by name that it describes as `place`: its `inputs` or `outputs`."""
    head_bytes, data = split(body, head_length)
    head, reader = codec.read_object(head_bytes), TensorReader(data)
    tensors: dict[str, NDArray[Any]] = {}
    for described in objects(head, place):
        name = str(described.get("name"))
        if place == "inputs":
            check_name(name, tensors)
        tensors[name] = _tensor(described, reader)
    reader.finish()
    return head, tensors


def outputs_wanted(head: Mapping[str, Any]) -> tuple[dict[str, bool] | None, bool]:
    """Return `wanted` and `binary` of an `InferRequest`, from its JSON."""
    binary = _flag(head, "binary_data_output", default=False)
    wanted = {str(one.get("name")): _flag(one, "binary_data", default=binary) for one in objects(head, "outputs")}
    return wanted or None, binary


def _raw(body: bytes, width: int) -> NDArray[Any]:
    if not body or len(body) % (4 * width):
        raise InvalidRequest("a raw body is rows of FP32", expected=f"{4 * width} bytes each", received=len(body))
    return np.frombuffer(body, dtype="<f4").reshape(-1, width)


def objects(head: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects, an empty one where there is none; raise `InvalidRequest` for what is no such list."""
    found = [] if head.get(name) is None else head[name]  # null is absent
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidRequest(f"{name}: not a list of objects", received=redacted(found))
    return found


def _parameters(described: Mapping[str, Any]) -> dict[str, Any]:
    found = {} if described.get("parameters") is None else described["parameters"]
    if not isinstance(found, dict):
        raise InvalidRequest("parameters: not an object", received=redacted(found))
    return found


def _flag(described: Mapping[str, Any], name: str, *, default: bool) -> bool:
    given = _parameters(described).get(name)
    found = default if given is None else given
    if not isinstance(found, bool):
        raise InvalidRequest(f"parameters.{name}: not true or false", received=redacted(found))
    return found


def _tensor(described: Mapping[str, Any], reader: TensorReader) -> NDArray[Any]:
    name, datatype, shape = str(described["name"]), described.get("datatype"), described.get("shape")
    size = _parameters(described).get("binary_data_size")
    if size is not None:
        return reader.take(name, datatype, shape, size)
    dimensions, data = read_shape(name, shape), described.get("data")
    if datatype == "BYTES":
        texts = np.asarray(data, dtype=object).reshape(-1).tolist() if isinstance(data, list) else []
        given = [one.encode() if isinstance(one, str) else None for one in texts]
        return elements_of(name, given, dimensions)
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise InvalidRequest(f"{name}: not a datatype", expected=f"one of {list(DATATYPES)}", received=datatype)
    return numbers_of(name, datatype, data, dimensions)


def numbers_of(name: str, datatype: str, data: object, dimensions: list[int]) -> NDArray[Any]:
    """Return numbers that are not raw in their datatype and shape; raise `InvalidRequest` where they do not fit."""
    try:
        numbers = np.asarray(data)
        with np.errstate(over="ignore", invalid="ignore"):  # what is then infinite is refused as rows are
            whole = numbers.astype(DATATYPES[datatype])
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequest(f"{name}: data is no list of numbers, nested or flat") from None
    if whole.dtype.kind in "biu" and numbers.dtype.kind in "fiu" and (whole != numbers).any():
        raise InvalidRequest(f"{name}: data does not fit its datatype", expected=str(datatype))
    count = math.prod(dimensions)
    if numbers.dtype.kind not in "fiub" or numbers.size != count:
        raise InvalidRequest(f"{name}: data and shape do not match", expected=f"{count} numbers", received=numbers.size)
    return whole.reshape(dimensions)


def elements_of(name: str, elements: Sequence[bytes | None], dimensions: list[int]) -> NDArray[Any]:
    """Return texts, None for what is no text, in their shape; raise `InvalidRequest` where they do not fit."""
    if len(elements) != math.prod(dimensions) or None in elements:
        raise InvalidRequest(f"{name}: data and shape do not match", expected=f"{math.prod(dimensions)} texts")
    return np.asarray([*elements, None], dtype=object)[:-1].reshape(dimensions)


def check_name(name: str, known: Mapping[str, object]) -> None:
    """Raise `InvalidRequest` for an input that a model does not have, or that came before."""
    if name not in {INPUT, CONTEXT} or name in known:
        wanted = f"{INPUT}, and {CONTEXT} where each row has its own"
        raise InvalidRequest("inputs: not a model's", expected=wanted, received=name[:100])


def rows_of(model: str, tensors: Mapping[str, NDArray[Any]]) -> RowBatch:
    """Return rows, and the context of all or of each, from the inputs of a request.

    Raise `InvalidRequest` where there are no rows, or contexts that are no text.
    """
    if INPUT not in tensors:
        raise InvalidRequest("inputs: there are no rows", expected=f"an input named {INPUT}")
    inputs, contexts = tensors[INPUT], tensors.get(CONTEXT)
    originals = None
    if inputs.dtype == object:  # texts or images: which of them, the rows' task says
        originals, inputs = Originals(None, inputs.reshape(-1).tolist()), np.zeros((0, 0))
    elif inputs.dtype == np.dtype("?"):
        inputs = inputs.astype(np.uint8)
    if contexts is None:
        return RowBatch(model, None, inputs, originals)
    if contexts.dtype != object:
        raise InvalidRequest(f"{CONTEXT}: not text", expected="datatype BYTES", received=str(contexts.dtype))
    try:
        return RowBatch(None, [text.decode() for text in contexts.reshape(-1)], inputs, originals)
    except UnicodeDecodeError:
        raise InvalidRequest(f"{CONTEXT}: not UTF-8") from None


@dataclass(frozen=True)
class Column:
    """One output of all rows: (B, n) numbers, (B,) classes, or (B,) texts as bytes; `binary` where that is wanted."""

    name: str
    values: NDArray[Any]
    binary: bool

    @property
    def _is_text(self) -> bool:
        return self.values.dtype == object

    def described(self) -> dict[str, Any]:
        """Return name, datatype and shape."""
        datatype = "BYTES" if self._is_text else DATATYPE_OF[self.values.dtype]
        return {"name": self.name, "datatype": datatype, "shape": self.values.shape}

    def raw(self) -> bytes:
        """Return its bytes as a binary tensor."""
        return dump_bytes(self.values.tolist()) if self._is_text else self.values.tobytes()

    def plain(self) -> Any:
        """Return its values as JSON has them, flat."""
        return [one.decode() for one in self.values] if self._is_text else self.values.reshape(-1)


def columns_of(request: InferRequest, answer: InferenceResult) -> list[Column]:
    """Return the outputs that a request wants; raise `InvalidRequest` for one that the rows' tasks do not have."""
    possible = set.intersection(*(set(outputs_of(task)) for task in answer.tasks))
    default = [name for name in outputs_of(answer.tasks[0]) if name in possible]
    columns = []
    for name, binary in (request.wanted or dict.fromkeys(default, request.binary)).items():
        if name not in possible:
            some = f"some of {sorted(possible)}"
            raise InvalidRequest("outputs: not a model's", expected=some, received=name)
        columns.append(Column(name, _column(answer, name), binary))
    return columns


def render(request: InferRequest, answer: InferenceResult, model: str, current: str) -> tuple[bytes, int | None]:
    """Return the bytes of an answer, and its JSON head's length before binary tensors; raises as `columns_of`."""
    head: dict[str, Any] = {"model_name": model, "model_version": current}
    if request.identifier:
        head["id"] = request.identifier
    return dump_tensors(head, "outputs", columns_of(request, answer))


def dump_tensors(head: dict[str, Any], place: str, columns: Iterable[Column]) -> tuple[bytes, int | None]:
    """Return the bytes of JSON with tensors as `place`, and how long it is where binary ones follow it."""
    described, raw = [], []
    for column in columns:
        if column.binary:
            raw.append(column.raw())
            described.append(column.described() | {"parameters": {"binary_data_size": len(raw[-1])}})
        else:
            described.append(column.described() | {"data": column.plain()})
    text = codec.dump(head | {place: described})
    return b"".join([text, *raw]), len(text) if raw else None


def _column(answer: InferenceResult, name: str) -> NDArray[Any]:
    """Return one output of all rows: (B, n), padded with zeros where tasks have fewer outputs, or (B,)."""
    if name == "labels":
        labels = [[label_text(label).encode() for label in task.labels or ()] for task in answer.tasks]
        numbers = _classes(answer)
        found = [labels[place][number] for place, number in zip(answer.places, numbers, strict=True)]
        if answer.in_scope is not None:
            found = [label if good else b"" for label, good in zip(found, answer.in_scope, strict=True)]
        return np.asarray([*found, None], dtype=object)[:-1]
    if name == "classes":
        return _classes(answer)
    if name == "in_scope":
        everything = np.ones(len(answer.places), dtype=bool)
        return everything if answer.in_scope is None else answer.in_scope
    width = max(task.outputs for task in answer.tasks)
    column = np.zeros((len(answer.places), width), dtype="<f4")
    for place, task in enumerate(answer.tasks):
        rows = np.flatnonzero(answer.places == place)
        logits = answer.logits[rows, : task.outputs]
        if name == "probabilities":
            logits = codec.probabilities(logits, answer.temperatures[place])
        column[rows, : task.outputs] = logits
    return column


def _classes(answer: InferenceResult) -> NDArray[np.int64]:
    counts = np.asarray([task.outputs for task in answer.tasks])[answer.places]  # (B,)
    foreign = np.arange(answer.logits.shape[1]) >= counts[:, None]  # (B, store outputs)
    classes: NDArray[np.int64] = np.where(foreign, -np.inf, answer.logits).argmax(1).astype("<i8")
    return classes
