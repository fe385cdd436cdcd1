"""Metadata of the server and its models for the protocol: a model is a context, by its text."""

from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Any, TypeVar

from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
from superposed_service.api.auth import Principal
from superposed_service.errors import UnknownVersion
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
