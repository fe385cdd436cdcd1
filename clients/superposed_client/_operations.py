"""Every call of the API once, as operations that the two clients run."""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, TypeAlias, TypedDict, Unpack
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike, NDArray

from superposed_client import models
from superposed_client._arrays import (
    inputs_of,
    is_by_name,
    labels_of,
    originals_form,
    originals_of,
    plain_rows,
    plain_values,
    targets_of,
)
from superposed_client._calls import Async, Sync, method
from superposed_client._contexts import Context, ContextLike, context_form
from superposed_client._core import Operation, Request, as_tensor, changing, parse, parse_list, refuse_errors
from superposed_client._shown import Listed, plot_matrix
from superposed_client.models import ApiKey, NewApiKey


class TaskFields(TypedDict, total=False):
    """Fields that a task can be registered with.

    Attributes:
        labels: The classes, in order: all bool, numbers, texts or times. They come back as they are given.
        outputs: Number of outputs, where there are no labels.
        inputs: Features; taken from the first rows where not given.
        loss: `cross_entropy` or `mse`.
        offset: Subtracted from each feature, (inputs,).
        scale: Each feature is divided by it, (inputs,).
        description: Free text.
        keep_rows: Whether the server may keep rows, as canaries and for rehearsal.
        group: The key of the group whose first layers it shares; made with its first member.
        own_layers: How many of the last layers are its own; by default the output layer, if it is expanded.
        composition: A mixture or power of registered tasks that it binds instead of a context of its own.
        scaling: "running" to standardise inputs by running statistics, "none" to leave them as they are.
        features: Names of values of records with their kind: `number`, `category` or `date`; default: the first rows'.
        extra_features: Whether records with other names are refused, or the names ignored.
        encoder: The store's encoder of texts or images; needed where it has several.
        abstain: Share of its own kept texts that a task of texts may leave without a label (None).
        kind: `rows` of numbers, `records`, `texts` or `images`; taken from the first rows where not given.
        label_form: "datetime" where the labels are times, written as texts.
        grow_labels: Whether targets that are no labels yet become labels.
    """

    labels: Sequence[Any] | NDArray[Any] | None
    outputs: int | None
    inputs: int | None
    loss: Literal["cross_entropy", "mse"]
    offset: Sequence[float] | None
    scale: Sequence[float] | None
    description: str | None
    keep_rows: bool
    standby: bool
    group: str | None
    own_layers: int | None
    composition: ContextLike | None
    scaling: Literal["running", "none"] | None
    features: Mapping[str, str] | None
    extra_features: Literal["refuse", "ignore"] | None
    encoder: str | None
    abstain: float | None
    kind: Literal["rows", "records", "texts", "images"]
    label_form: Literal["datetime"] | None
    grow_labels: bool


Inputs: TypeAlias = ArrayLike | Sequence[Sequence[float]] | Sequence[Mapping[str, Any]]
Targets: TypeAlias = ArrayLike | Sequence[str | int | float | Sequence[float]]

# Rows of one request where a call may be cut into several.
CHUNK_ROWS = 1024
# Tasks of one page of a listing.
_PAGE_TASKS = 500
# Lines of one request of a stream.
_STREAM_LINES = 256


def chunks(count: int, size: int = CHUNK_ROWS) -> Iterator[slice]:
    """Return consecutive slices of at most `size` rows; one empty slice for no rows."""
    yield from (slice(start, start + size) for start in range(0, max(count, 1), size))


def _targets_form(targets: Targets) -> Any:
    """Return targets as they are sent: numbers as a tensor, other labels as JSON values."""
    plain = targets_of(targets)
    tensor = as_tensor(plain)
    return plain.tolist() if tensor is None else tensor


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _forms(contexts: Iterable[ContextLike] | None) -> list[Any] | None:
    return None if contexts is None else [context_form(each) for each in contexts]


def _rows_body(context: ContextLike | None, contexts: Iterable[ContextLike] | None, inputs: Inputs) -> dict[str, Any]:
    form = None if context is None else context_form(context)
    return _inputs_form(inputs) | _given(context=form, contexts=_forms(contexts))


def _inputs_form(inputs: Inputs) -> dict[str, Any]:
    """Return rows as they are sent: texts, images, records, or numbers as a tensor."""
    if (form := originals_form(originals_of(inputs))) is not None:
        return form
    if is_by_name(inputs):
        return {"records": inputs_of(inputs)}
    plain = plain_rows(inputs)
    if isinstance(plain, np.ndarray) and plain.dtype.kind == "b":
        plain = plain.astype(np.uint8)
    tensor = as_tensor(plain)
    return {"inputs": plain_values(plain) if tensor is None or tensor.ndim != 2 else tensor}


def register_new(schema: Mapping[str, Any]) -> Operation[tuple[models.TaskInfo, bool]]:
    """Build the request `POST /v1/tasks`; its result says whether the task is new."""
    body = {
        name: context_form(value) if isinstance(value, Context) else plain_values(value)
        for name, value in schema.items()
        if value is not None and name not in {"labels", "features"}
    }
    if (features := schema.get("features")) is not None:
        kinds = features.items() if isinstance(features, Mapping) else None
        body["features"] = features if kinds is None else [{"name": a, "kind": b} for a, b in kinds]
    if schema.get("labels") is not None:
        body["labels"], form = labels_of(schema["labels"])
        body |= {"label_form": form} if form else {}
    response = yield changing("POST", "/v1/tasks", body)
    return parse(models.TaskInfo, response), response.status_code == 201


class Operations:
    """Every call of the API, as the operation that a client of either kind runs."""

    @method
    def infer(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        *,
        contexts: Iterable[ContextLike] | None = None,
        fields: Sequence[str] | None = None,
        k: int | None = None,
    ) -> Operation[models.Inference]:
        """Answer rows of one context (`context`), or of one each (`contexts`, with `context=None`)."""
        body = _rows_body(context, contexts, inputs) | _given(k=k and int(k))
        body |= {} if fields is None else {"return": list(fields)}
        return parse(models.Inference, (yield Request("POST", "/v1/infer", body)))

    @method
    def update(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        targets: Targets,
        *,
        contexts: Iterable[ContextLike] | None = None,
        steps: int | None = None,
        grow_labels: bool = False,
        sample_weight: Any = None,
        idempotency_key: str | None = None,
    ) -> Operation[models.Update]:
        """Learn rows; the answer is what the model knew before.

        Sent again with the same idempotency key it is still learned once; each call has a new key unless
        it is given one.
        """
        body = _rows_body(context, contexts, inputs) | {"targets": _targets_form(targets)}
        body |= _given(steps=steps and int(steps), grow_labels=grow_labels or None)
        if sample_weight is not None:
            body["sample_weight"] = plain_values(np.asarray(plain_rows(sample_weight), dtype=np.float64))
        return parse(models.Update, (yield changing("POST", "/v1/update", body, key=idempotency_key)))

    @method
    def send(self, method: str, path: str, body: Mapping[str, Any]) -> Operation[Any]:
        """Send a change that has no call of its own here, with an idempotency key; return the JSON that answers it."""
        return refuse_errors((yield changing(method, path, body))).json()

    @method
    def stream(self, lines: Iterable[Mapping[str, Any]]) -> Operation[list[dict[str, Any]]]:
        """Send lines of updates and inference to `POST /v1/stream`, some hundred at a time; return their answers.

        Args:
            lines: `{"update": {…}}` or `{"infer": {…}}`, each with an `id` if it has one: a line that is sent again by
                the same id is learned once. Rows and targets are arrays, or plain values.

        Returns:
            `{"id", "answer"}` or `{"id", "problem"}` for each line.
        """
        rest, answers = iter(lines), list[dict[str, Any]]()
        while part := list(islice(rest, _STREAM_LINES)):
            sent = [json.dumps({"id": uuid.uuid4().hex, **line}, default=plain_values) for line in part]
            request = replace(changing("POST", "/v1/stream"), lines="\n".join(sent).encode())
            answers += map(json.loads, refuse_errors((yield request)).text.splitlines())
        return answers

    @method
    def evaluate(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        targets: Targets,
        *,
        contexts: Iterable[ContextLike] | None = None,
    ) -> Operation[models.Evaluation]:
        """Return loss and accuracy on labelled rows."""
        body = _rows_body(context, contexts, inputs) | {"targets": _targets_form(targets)}
        return parse(models.Evaluation, (yield Request("POST", "/v1/evaluate", body)))

    @method
    def relabel(self, sequence: int, targets: Sequence[Any]) -> Operation[models.Relabelling]:
        """Correct the targets of an update: it is taken out, and its rows are learned with these.

        Args:
            sequence: The update's sequence number, as its answer gave it.
            targets: One a row; None for a row whose target was right.
        """
        given = list(targets)
        known = [target for target in given if target is not None]
        values = iter(targets_of(known).tolist() if known else [])
        body = {"targets": [None if target is None else next(values) for target in given]}
        return parse(models.Relabelling, (yield changing("POST", f"/v1/updates/{int(sequence)}/relabel", body)))

    @method
    def register_task(self, key: str, **schema: Unpack[TaskFields]) -> Operation[models.TaskInfo]:
        """Register a task: see `TaskFields`, which has the fields of `POST /v1/tasks`."""
        return (yield from register_new({"key": key, **schema}))[0]

    @method
    def get_task(self, key: str) -> Operation[models.TaskInfo]:
        """Return a task's schema and counters."""
        return parse(models.TaskInfo, (yield Request("GET", f"/v1/tasks/{quote(key, safe='')}")))

    @method
    def alter_task(
        self,
        key: str,
        *,
        add_labels: Sequence[Any] | None = None,
        offset: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        standby: bool | None = None,
        schema_version: int | None = None,
    ) -> Operation[models.TaskInfo]:
        """Add labels to a task, scale its rows otherwise, or end its standby.

        Args:
            key: The task.
            add_labels: Labels to add after those that the task has; present ones are passed over.
            offset: Subtracted from each feature, (inputs,).
            scale: Each feature is divided by it, (inputs,).
            standby: True to have it answer, and take no updates but of a move to another cell; False to end that.
            schema_version: Version of the schema that is changed; another one raises `SchemaChanged`.
        """
        given = _given(offset=offset, scale=scale, standby=standby, schema_version=schema_version)
        body = {name: plain_values(value) for name, value in given.items()}
        body |= {} if add_labels is None else {"add_labels": labels_of(add_labels)[0]}
        return parse(models.TaskInfo, (yield changing("PATCH", f"/v1/tasks/{quote(key, safe='')}", body)))

    @method
    def task_rows(self, key: str, *, after: int = 0) -> Operation[list[dict[str, Any]]]:
        """Return rows and targets of a task's next updates after a record, as `POST /v1/update` takes them."""
        path = f"/v1/tasks/{quote(key, safe='')}/data"
        found: list[dict[str, Any]] = refuse_errors((yield Request("GET", path, params={"after": after}))).json()
        return found

    @method
    def evaluations(self, key: str) -> Operation[Listed[models.EvaluatedAccuracy]]:
        """Return the evaluations of a task at different numbers of tasks."""
        path = f"/v1/tasks/{quote(key, safe='')}/evaluations"
        return parse_list(models.EvaluatedAccuracy, (yield Request("GET", path)))

    @method
    def interference(self, keys: Sequence[str]) -> Operation[models.Interference]:
        """Return overlap and crosstalk of up to 24 tasks."""
        return parse(models.Interference, (yield Request("GET", "/v1/interference", params={"tasks": ",".join(keys)})))

    @method
    def plot_interference(self, keys: Sequence[str]) -> Operation[Any]:
        """Draw the crosstalk between up to 24 tasks (extra `plots`); return the axes."""
        return plot_matrix((yield from Operations.interference(self, keys)))

    @method
    def delete_task(self, key: str, *, updates: int | None = None) -> Operation[None]:
        """Forget a task; with `updates` only if that number of updates has taught it."""
        params = {} if updates is None else {"updates": updates}
        refuse_errors((yield changing("DELETE", f"/v1/tasks/{quote(key, safe='')}", params=params)))

    @method
    def list_tasks(self, prefix: str = "") -> Operation[Listed[models.TaskInfo]]:
        """Return every task whose key starts with `prefix`."""
        tasks = Listed[models.TaskInfo]()
        cursor: str | None = ""
        while cursor is not None:
            params: dict[str, str | int] = {"limit": _PAGE_TASKS, "prefix": prefix, "cursor": cursor}
            page = parse(models.TaskPage, (yield Request("GET", "/v1/tasks", params=params)))
            tasks += page.tasks
            cursor = page.next_cursor
        return tasks

    @method
    def store(self) -> Operation[models.StoreInfo]:
        """Return the store's description."""
        return parse(models.StoreInfo, (yield Request("GET", "/v1/store")))

    @method
    def capacity(self) -> Operation[models.Capacity]:
        """Return the store's fill level."""
        return parse(models.Capacity, (yield Request("GET", "/v1/capacity")))

    @method
    def model(
        self,
        context: ContextLike,
        *,
        format: Literal["safetensors", "onnx"] = "safetensors",  # noqa: A002 - as the route
        encoder: bool = False,
        int8: bool = False,
    ) -> Operation[bytes]:
        """Return a context's model as an ordinary network: a file's bytes.

        Args:
            context: A task key, or another context.
            format: The file's.
            encoder: Whether an ONNX file takes the tokens of texts, with the task's encoder in it.
            int8: Whether an ONNX file has weights of 8 bits.
        """
        params: dict[str, str | int] = {"context": context if isinstance(context, str) else json.dumps(context.form)}
        params |= {"format": format, "encoder": str(encoder).lower(), "int8": str(int8).lower()}
        return refuse_errors((yield Request("GET", "/v1/model", params=params))).content

    @method
    def locate(
        self,
        inputs: Inputs,
        targets: Targets | None = None,
        *,
        candidates: Iterable[ContextLike] | None = None,
        exponent_of: str | None = None,
        exponents: tuple[float, float] | None = None,
    ) -> Operation[models.Located]:
        """Find the context that rows of one stream fit best: of all tasks, of candidates, or a power."""
        body = _inputs_form(inputs) | _given(candidates=_forms(candidates), exponent_of=exponent_of)
        body |= _given(exponents=plain_values(exponents))
        body |= {} if targets is None else {"targets": _targets_form(targets)}
        return parse(models.Located, (yield Request("POST", "/v1/locate", body)))

    @method
    def consolidate(self, steps: int) -> Operation[models.Consolidation]:
        """Have the server rehearse the rows that it keeps of all tasks."""
        return parse(models.Consolidation, (yield changing("POST", "/v1/consolidate", {"steps": int(steps)})))

    @method
    def server_state(self) -> Operation[models.ServerState]:
        """Return the server's role among the store's servers."""
        return parse(models.ServerState, (yield Request("GET", "/v1/replication")))

    @method
    def promote(self, *, allow_loss: bool = False) -> Operation[models.Promotion]:
        """Make this server the leader, or the one with newer records where the old leader is not reached.

        `allow_loss`: acknowledged changes may be lost with servers that are not reached.
        """
        request = Request("POST", "/v1/replication/promote", {"allow_loss": allow_loss}, retry=False)
        return parse(models.Promotion, (yield request))

    @method
    def take_snapshot(self) -> Operation[models.Snapshot]:
        """Have the server write a snapshot."""
        return parse(models.Snapshot, (yield changing("POST", "/v1/snapshots")))

    @method
    def restore_snapshot(self, identifier: str) -> Operation[models.Rollback]:
        """Go back to a snapshot: a rollback to its sequence number."""
        return parse(models.Rollback, (yield changing("POST", f"/v1/snapshots/{quote(identifier, safe='')}/restore")))

    @method
    def roll_back(
        self,
        *,
        to_sequence: int | None = None,
        task: str | None = None,
        sequences: tuple[int, int] | None = None,
        api_key: str | None = None,
    ) -> Operation[models.Rollback]:
        """Take records out of the store's past; give exactly one.

        Args:
            to_sequence: All that came after this sequence number.
            task: Every update of this task, also of compositions that contain it.
            sequences: First and last of a range, both included.
            api_key: Every update that the API key of this id sent.
        """
        without = _given(task=task, api_key=api_key, sequences=plain_values(sequences))
        if (to_sequence is not None) + len(without) != 1:
            raise ValueError("give exactly one of to_sequence, task, sequences and api_key")
        body = _given(to_sequence=to_sequence, without=without or None)
        return parse(models.Rollback, (yield changing("POST", "/v1/rollback", body)))

    @method
    def erase_rows(self, key: str) -> Operation[models.Erasure]:
        """Erase a task's rows from the server's disk; what they taught stays in the weights."""
        return parse(models.Erasure, (yield changing("DELETE", f"/v1/tasks/{quote(key, safe='')}/data")))

    @method
    def quarantine(self, source: str, *, reason: str = "") -> Operation[models.Quarantine]:
        """Have a source's updates recorded and not learned from; `source` is a task key or `key:<id>`."""
        return parse(
            models.Quarantine, (yield changing("POST", "/v1/quarantine", {"source": source, "reason": reason}))
        )

    @method
    def release(self, source: str) -> Operation[None]:
        """Have a source's updates learned from again."""
        refuse_errors((yield changing("DELETE", f"/v1/quarantine/{quote(source, safe='')}")))

    @method
    def list_quarantine(self) -> Operation[Listed[models.Quarantine]]:
        """Return the sources in quarantine, since when, and why."""
        return parse_list(models.Quarantine, (yield Request("GET", "/v1/quarantine")))

    @method
    def list_snapshots(self) -> Operation[Listed[models.Snapshot]]:
        """Return the snapshots on the server's disk, oldest first."""
        return parse_list(models.Snapshot, (yield Request("GET", "/v1/snapshots")))

    @method
    def ready(self) -> Operation[bool]:
        """Return True if the server admits requests."""
        return (yield Request("GET", "/health/ready", retry=False)).status_code == 200


KeyScope: TypeAlias = Literal["monitor", "infer", "update", "replicate", "admin"]


class Quotas(TypedDict, total=False):
    """Quotas of a key for each second; without one, the server's settings hold, and 0 is no quota."""

    requests_per_second: float
    rows_per_second: float
    updates_per_second: float


class _KeyCalls:
    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run

    @method
    def create(
        self,
        scope: KeyScope,
        *,
        name: str = "",
        tasks: str = "*",
        groups: str = "",
        expires: float | None = None,
        **quotas: Unpack[Quotas],
    ) -> Operation[NewApiKey]:
        """Make a key; the answer shows it for the only time. Never sent twice by itself.

        Args:
            scope: `monitor` (metrics), `infer`, `update` (infer, and learn), `replicate` (follow) or `admin`.
            name: Free text.
            tasks: A pattern of task keys that it may name: `*` and `?`.
            groups: A pattern of groups that its tasks may join, beside those that `tasks` matches.
            expires: Unix seconds; None for never.
            quotas: `requests_per_second`, `rows_per_second`, `updates_per_second`.
        """
        body = {"scope": scope, "name": name, "tasks": tasks, "groups": groups, "expires": expires, **quotas}
        return parse(NewApiKey, (yield Request("POST", "/v1/keys", body, retry=False)))

    @method
    def list(self) -> Operation[Listed[ApiKey]]:
        """Return every key, the revoked ones too; never a secret."""
        return parse_list(ApiKey, (yield Request("GET", "/v1/keys")))

    @method
    def revoke(self, identifier: str) -> Operation[None]:
        """End a key at once; what it did stays on record under its id."""
        refuse_errors((yield Request("DELETE", f"/v1/keys/{quote(identifier, safe='')}")))

    @method
    def rotate(self, identifier: str) -> Operation[NewApiKey]:
        """Give a key a new secret; the old one is no good from now on."""
        return parse(NewApiKey, (yield Request("POST", f"/v1/keys/{quote(identifier, safe='')}/rotate", retry=False)))


class Keys(_KeyCalls, Sync):
    """API keys, by id, for a client whose own key has scope admin. Made by `Client`."""


class AsyncKeys(_KeyCalls, Async):
    """API keys, by id. Made by `AsyncClient`; see `Keys`."""
