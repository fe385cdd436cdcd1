"""Every call of the API once, as operations that the two clients run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike, NDArray

from superposed_client import _safetensors as safetensors
from superposed_client._arrays import inputs_of, is_by_name, labels_of, plain_rows, plain_values, targets_of
from superposed_client._contexts import Context, ContextLike, context_form
from superposed_client._core import Operation, Request, changing, parse, parse_list, refuse_errors
from superposed_client._models import (
    Capacity,
    Consolidation,
    Erasure,
    EvaluatedAccuracy,
    Evaluation,
    Inference,
    Interference,
    LearnedModel,
    Located,
    Quarantine,
    Relabelling,
    Rollback,
    Snapshot,
    StoreInfo,
    TaskInfo,
    TaskPage,
    Update,
)
from superposed_client._tensors import as_tensor

__all__ = ["CHUNK_ROWS", "Inputs", "Targets", "chunks"]

Inputs: TypeAlias = ArrayLike | Sequence[Sequence[float]] | Sequence[Mapping[str, Any]]
Targets: TypeAlias = ArrayLike | Sequence[str | int | float | Sequence[float]]

# Rows of one request where a call may be cut into several.
CHUNK_ROWS = 1024


def chunks(count: int, size: int = CHUNK_ROWS) -> Iterator[slice]:
    """Return consecutive slices of at most `size` rows; one empty slice for no rows."""
    yield from (slice(start, start + size) for start in range(0, max(count, 1), size))


def _targets_form(targets: Targets) -> Any:
    """Return targets as they are sent: numbers as a tensor, other labels as JSON values."""
    plain = targets_of(targets)
    tensor = as_tensor(plain)
    return plain.tolist() if tensor is None else tensor


def _rows_body(
    context: ContextLike | None, contexts: Iterable[ContextLike] | None, inputs: Inputs
) -> dict[str, Any]:
    body = _inputs_form(inputs)
    if context is not None:
        body["context"] = context_form(context)
    if contexts is not None:
        body["contexts"] = [context_form(each) for each in contexts]
    return body


def _inputs_form(inputs: Inputs) -> dict[str, Any]:
    """Return rows as they are sent: records, or numbers as a tensor."""
    if is_by_name(inputs):
        return {"records": inputs_of(inputs)}
    plain = plain_rows(inputs)
    if isinstance(plain, np.ndarray) and plain.dtype.kind == "b":
        plain = plain.astype(np.uint8)
    tensor = as_tensor(plain)
    return {"inputs": plain_values(plain) if tensor is None or tensor.ndim != 2 else tensor}


def infer(
    context: ContextLike | None,
    inputs: Inputs,
    contexts: Iterable[ContextLike] | None = None,
    fields: Sequence[str] | None = None,
    k: int | None = None,
) -> Operation[Inference]:
    """Build the request `POST /v1/infer`."""
    body = _rows_body(context, contexts, inputs)
    if fields is not None:
        body["return"] = list(fields)
    if k is not None:
        body["k"] = int(k)
    return parse(Inference, (yield Request("POST", "/v1/infer", body)))


def update(
    context: ContextLike | None,
    inputs: Inputs,
    targets: Targets,
    contexts: Iterable[ContextLike] | None = None,
    steps: int = 1,
    key: str | None = None,
    *,
    grow_labels: bool = False,
    sample_weight: Any = None,
) -> Operation[Update]:
    """Build the request `POST /v1/update`."""
    body = _rows_body(context, contexts, inputs) | {"targets": _targets_form(targets), "steps": int(steps)}
    body |= {"grow_labels": True} if grow_labels else {}
    if sample_weight is not None:
        body["sample_weight"] = plain_values(np.asarray(plain_rows(sample_weight), dtype=np.float64))
    return parse(Update, (yield changing("POST", "/v1/update", body, key=key)))


def evaluate(
    context: ContextLike | None,
    inputs: Inputs,
    targets: Targets,
    contexts: Iterable[ContextLike] | None = None,
) -> Operation[Evaluation]:
    """Build the request `POST /v1/evaluate`."""
    body = _rows_body(context, contexts, inputs) | {"targets": _targets_form(targets)}
    return parse(Evaluation, (yield Request("POST", "/v1/evaluate", body)))


def relabel(sequence: int, targets: Sequence[Any]) -> Operation[Relabelling]:
    """Build the request `POST /v1/updates/{sequence}/relabel`."""
    given = list(targets)
    known = [place for place, target in enumerate(given) if target is not None]
    values = targets_of([given[place] for place in known]).tolist() if known else []
    body = {"targets": [dict(zip(known, values, strict=True)).get(place) for place in range(len(given))]}
    return parse(Relabelling, (yield changing("POST", f"/v1/updates/{int(sequence)}/relabel", body)))


def register(schema: Mapping[str, Any]) -> Operation[TaskInfo]:
    """Build the request `POST /v1/tasks`; fields that are None are left out."""
    return (yield from register_new(schema))[0]


def register_new(schema: Mapping[str, Any]) -> Operation[tuple[TaskInfo, bool]]:
    """Build the request `POST /v1/tasks`; its result says whether the task is new."""
    body = {
        name: context_form(value) if isinstance(value, Context) else plain_values(value)
        for name, value in schema.items()
        if value is not None and name != "labels"
    }
    if schema.get("labels") is not None:
        body["labels"], form = labels_of(schema["labels"])
        body |= {"label_form": form} if form else {}
    response = yield changing("POST", "/v1/tasks", body)
    return parse(TaskInfo, response), response.status == 201


def get_task(key: str) -> Operation[TaskInfo]:
    """Build the request `GET /v1/tasks/{key}`."""
    return parse(TaskInfo, (yield Request("GET", f"/v1/tasks/{quote(key, safe='')}")))


def alter_task(
    key: str,
    add_labels: Any = None,
    offset: Sequence[float] | None = None,
    scale: Sequence[float] | None = None,
    schema_version: int | None = None,
) -> Operation[TaskInfo]:
    """Build the request `PATCH /v1/tasks/{key}`."""
    given = {"offset": offset, "scale": scale, "schema_version": schema_version}
    body = {name: plain_values(value) for name, value in given.items() if value is not None}
    body |= {"add_labels": labels_of(add_labels)[0]} if add_labels is not None else {}
    return parse(TaskInfo, (yield changing("PATCH", f"/v1/tasks/{quote(key, safe='')}", body)))


def evaluations(key: str) -> Operation[list[EvaluatedAccuracy]]:
    """Build the request `GET /v1/tasks/{key}/evaluations`."""
    path = f"/v1/tasks/{quote(key, safe='')}/evaluations"
    return parse_list(EvaluatedAccuracy, (yield Request("GET", path)))


def interference(keys: Sequence[str]) -> Operation[Interference]:
    """Build the request `GET /v1/interference`."""
    params = {"tasks": ",".join(keys)}
    return parse(Interference, (yield Request("GET", "/v1/interference", params=params)))


def delete_task(key: str, *, untaught: bool = False) -> Operation[None]:
    """Build the request `DELETE /v1/tasks/{key}`; `untaught` deletes it only if no update taught it."""
    params: dict[str, str | int] = {"untaught": "true"} if untaught else {}
    refuse_errors((yield changing("DELETE", f"/v1/tasks/{quote(key, safe='')}", params=params)))


def list_tasks(prefix: str = "", page_size: int = 500) -> Operation[list[TaskInfo]]:
    """Build the requests `GET /v1/tasks`, page after page."""
    tasks: list[TaskInfo] = []
    cursor: str | None = ""
    while cursor is not None:
        params: dict[str, str | int] = {"limit": page_size, "prefix": prefix, "cursor": cursor}
        page = parse(TaskPage, (yield Request("GET", "/v1/tasks", params=params)))
        tasks += page.tasks
        cursor = page.next_cursor
    return tasks


def store() -> Operation[StoreInfo]:
    """Build the request `GET /v1/store`."""
    return parse(StoreInfo, (yield Request("GET", "/v1/store")))


def capacity() -> Operation[Capacity]:
    """Build the request `GET /v1/capacity`."""
    return parse(Capacity, (yield Request("GET", "/v1/capacity")))


def model(context: ContextLike) -> Operation[bytes]:
    """Build the request `GET /v1/model`."""
    form = context_form(context)
    text = form if isinstance(form, str) else _text(form)
    return refuse_errors((yield Request("GET", "/v1/model", params={"context": text}))).body


def _of_one_dtype(tensors: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return a network's tensors as arrays; its layers all float64 where one of them is, else float32."""
    arrays = {name: np.asarray(plain_rows(values)) for name, values in tensors.items()}
    layers = [array.dtype for name, array in arrays.items() if name.startswith("layers.")]
    dtype = np.float64 if np.dtype(np.float64) in layers else np.float32
    return {
        name: array.astype(dtype) if name.startswith("layers.") else array for name, array in arrays.items()
    }


def learn_model(
    key: str,
    model: bytes | Mapping[str, Any],
    rows: Inputs,
    epochs: int = 10,
    activation: str = "relu",
    normalisation: str = "none",
) -> Operation[LearnedModel]:
    """Build the request `PUT /v1/tasks/{key}/model`."""
    samples = np.asarray(plain_rows(rows))
    if isinstance(model, bytes):
        tensors, metadata = safetensors.parse(model)
    else:
        facts = {"kind": normalisation, "epsilon": 1e-5}
        metadata = {"activation": activation, "normalisation": facts}
        width = samples.shape[-1]
        tensors = {"input.offset": np.zeros(width), "input.scale": np.ones(width)} | _of_one_dtype(model)
    body = safetensors.dump(tensors | {"rows": samples}, metadata)
    path = f"/v1/tasks/{quote(key, safe='')}/model"
    return parse(LearnedModel, (yield changing("PUT", path, body, params={"epochs": epochs})))


def locate(
    inputs: Inputs,
    targets: Targets | None = None,
    candidates: Iterable[ContextLike] | None = None,
    exponent_of: str | None = None,
    exponents: tuple[float, float] | None = None,
) -> Operation[Located]:
    """Build the request `POST /v1/locate`."""
    body = _rows_body(None, None, inputs)
    if targets is not None:
        body["targets"] = _targets_form(targets)
    if candidates is not None:
        body["candidates"] = [context_form(each) for each in candidates]
    if exponent_of is not None:
        body["exponent_of"] = exponent_of
    if exponents is not None:
        body["exponents"] = list(exponents)
    return parse(Located, (yield Request("POST", "/v1/locate", body)))


def consolidate(steps: int) -> Operation[Consolidation]:
    """Build the request `POST /v1/consolidate`."""
    return parse(Consolidation, (yield changing("POST", "/v1/consolidate", {"steps": int(steps)})))


def _text(form: Any) -> str:
    """Return the text form of a context, which a query can carry."""
    if isinstance(form, str):
        return form
    [(kind, body)] = form.items()
    if kind == "task":
        return str(body)
    if kind == "power":
        return f"{_text(body['context'])}^{body['exponent']!r}"
    return "mix(" + ",".join(f"{_text(part['context'])}:{part['weight']!r}" for part in body) + ")"


def take_snapshot() -> Operation[Snapshot]:
    """Build the request `POST /v1/snapshots`."""
    return parse(Snapshot, (yield changing("POST", "/v1/snapshots")))


def restore_snapshot(identifier: str) -> Operation[Rollback]:
    """Build the request `POST /v1/snapshots/{id}/restore`."""
    path = f"/v1/snapshots/{quote(identifier, safe='')}/restore"
    return parse(Rollback, (yield changing("POST", path)))


def roll_back(
    to_sequence: int | None, task: str | None, sequences: tuple[int, int] | None, api_key: str | None
) -> Operation[Rollback]:
    """Build the request `POST /v1/rollback`."""
    without = {"task": task, "api_key": api_key, "sequences": sequences and list(sequences)}
    chosen = {name: value for name, value in without.items() if value is not None}
    body: dict[str, Any] = {"without": chosen} if chosen else {}
    if to_sequence is not None:
        body["to_sequence"] = to_sequence
    return parse(Rollback, (yield changing("POST", "/v1/rollback", body)))


def erase_rows(key: str) -> Operation[Erasure]:
    """Build the request `DELETE /v1/tasks/{key}/data`."""
    path = f"/v1/tasks/{quote(key, safe='')}/data"
    return parse(Erasure, (yield changing("DELETE", path)))


def quarantine(source: str, reason: str) -> Operation[Quarantine]:
    """Build the request `POST /v1/quarantine`."""
    body = {"source": source, "reason": reason}
    return parse(Quarantine, (yield changing("POST", "/v1/quarantine", body)))


def release(source: str) -> Operation[None]:
    """Build the request `DELETE /v1/quarantine/{source}`."""
    refuse_errors((yield changing("DELETE", f"/v1/quarantine/{quote(source, safe='')}")))


def list_quarantine() -> Operation[list[Quarantine]]:
    """Build the request `GET /v1/quarantine`."""
    return parse_list(Quarantine, (yield Request("GET", "/v1/quarantine")))


def list_snapshots() -> Operation[list[Snapshot]]:
    """Build the request `GET /v1/snapshots`."""
    return parse_list(Snapshot, (yield Request("GET", "/v1/snapshots")))


def ready() -> Operation[bool]:
    """Build the request `GET /health/ready`; a 503 is a result here, not an error."""
    response = yield Request("GET", "/health/ready", retry=False)
    return response.status == 200
