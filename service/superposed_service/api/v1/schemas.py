"""The bodies of the native API, as they are documented and checked (see docs/http-api.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter, WithJsonSchema, model_validator

from superposed.encoders.records import Feature
from superposed.tasks.labels import Label
from superposed_service.changes.rows import Originals
from superposed_service.storage.api_keys import AccessScope, ApiKey

CONTEXT_SCHEMA: dict[str, Any] = {
    "description": "A context: text (`digits`, `digits/u42`, `mix(a:0.7,b:0.3)`, `rot^1.25`) or its JSON"
    " form; where rows are answered, `auto` for the task that they fit best.",
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]},
        {"type": "object", "properties": {"mixture": {"type": "array"}}, "required": ["mixture"]},
        {"type": "object", "properties": {"power": {"type": "object"}}, "required": ["power"]},
    ],
}
_CONTEXTS = WithJsonSchema({"type": "array", "items": CONTEXT_SCHEMA})


class Body(BaseModel, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True):
    """A request's body: unknown fields and numbers that are not finite are refused."""


def _exactly_one(names: tuple[str, ...], wrong: str) -> Any:
    """Return a validator of bodies that give exactly one of some fields; of others the error is `wrong`."""

    def check(body: Any) -> Any:
        if sum(getattr(body, name) is not None for name in names) != 1:
            raise ValueError(wrong)
        return body

    return model_validator(mode="after")(check)


_PROBLEM: dict[str, Any] = {
    "type": "urn:superposed:problem:shape-mismatch",
    "title": "Shape mismatch",
    "status": 422,
    "detail": "rows of the wrong width for task digits",
    "instance": "/v1/infer",
    "expected": "64 features",
    "received": 63,
}


class ProblemBody(BaseModel, use_attribute_docstrings=True, json_schema_extra={"examples": [_PROBLEM]}):
    """A problem document (RFC 9457)."""

    type: str
    """`urn:superposed:problem:<slug>`; docs/reference/errors.md lists the slugs."""
    title: str
    status: int
    detail: str
    instance: str
    expected: str | int | float | None = None
    received: str | int | float | None = None


# Contexts, numbers and targets are checked once, against the tasks, by the engine; here they just pass.
Context = Annotated[Any, WithJsonSchema(CONTEXT_SCHEMA)]


def _documented(kind: Any, description: str) -> WithJsonSchema:
    """Return the schema of a type for values that are checked later, and just pass here."""
    return WithJsonSchema(TypeAdapter(kind).json_schema() | {"description": description})


Matrix = Annotated[Any, _documented(list[list[float]], "Rows of numbers, each as wide as its task.")]
Records = Annotated[
    Any,
    _documented(
        list[dict[str, float | str | bool | None]],
        "Rows of named values: numbers, texts (categories, or dates in ISO 8601), bools, null for a missing"
        " one. Of tasks that were registered with kind records.",
    ),
]
Targets = Annotated[
    list[Any],
    _documented(
        list[bool | str | int | float | list[float]],
        "One target a row: a label (bool, number or text, matched by value); a class index where the task was"
        " registered without labels; for mse one or several numbers.",
    ),
]


class TaskRegistration(Body, json_schema_extra={"examples": [{"key": "digits", "labels": [0, 1, 2], "inputs": 64}]}):
    """`POST /v1/tasks`: give labels, or the number of outputs."""

    key: str
    labels: list[Label] | None = Field(None, min_length=1)
    """The classes, all bool, number or text. Targets are matched to them by value."""
    label_form: Literal["datetime"] | None = None
    """datetime where the labels are times, which the client writes as texts."""
    outputs: int | None = Field(None, ge=1, strict=True)
    inputs: int | None = Field(None, ge=1, strict=True)
    """Number of features of a row; default: the store's number of inputs."""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    offset: list[Annotated[float, Field(strict=True)]] | None = None
    scale: list[Annotated[float, Field(strict=True)]] | None = None
    description: str = ""
    keep_rows: bool = Field(True, strict=True)
    """True if the server may keep rows of the task, for the poison detector and for rehearsal."""
    group: str | None = None
    """Group of the task, which shares its first layers; made if it is not there."""
    own_layers: int | None = Field(None, ge=1, strict=True)
    """Number of last layers of its own, in a group; default: an expanded output layer, or half."""
    composition: Context = None
    """Mixture or power of registered tasks that the task binds instead of a context of its own."""
    scaling: Literal["running", "none"] | None = None
    """running (by statistics of the stream; default in an mlp without offset and scale), or none."""
    kind: Literal["rows", "records", "texts", "images"] = "rows"
    """rows of numbers (`inputs`), records of named values (`records`), `texts` or `images`."""
    encoder: str | None = None
    """Name of the store's encoder of texts or images; default: the only one of the kind."""
    abstain: float | None = Field(None, gt=0, le=0.5, strict=True)
    """Share of its own kept texts that may get no label, so that others that are unlike get none."""
    features: list[Feature] | None = Field(None, min_length=1)
    """Names and kinds of the values of records; default: as in the first update."""
    extra_features: Literal["refuse", "ignore"] = "refuse"
    """What happens to a record with a name that the task does not have."""
    standby: bool = Field(False, strict=True)
    """True while it is taught what a task of another cell knows: an ingress sends it no requests."""

    @model_validator(mode="after")
    def _labels_or_outputs(self) -> Self:
        if self.labels is None and self.outputs is None:
            raise ValueError("give labels, or the number of outputs")
        return self


class TaskAlteration(Body, json_schema_extra={"examples": [{"add_labels": ["x"]}]}):
    """`PATCH /v1/tasks/{key}`: give at least one change."""

    add_labels: list[Label] | None = None
    """Labels to add after those that the task has; present ones are passed over."""
    offset: list[Annotated[float, Field(strict=True)]] | None = None
    scale: list[Annotated[float, Field(strict=True)]] | None = None
    standby: bool | None = Field(None, strict=True)
    """True to have the task answer, and take no updates; False for one that takes the requests from now on."""
    schema_version: int | None = Field(None, ge=1, strict=True)
    """Version of the schema that is changed: another one is 409 `schema-changed`."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(one is None for one in (self.add_labels, self.offset, self.scale, self.standby)):
            raise ValueError("give add_labels, offset, scale or standby")
        return self


Sequence = Annotated[int, Field(ge=1, strict=True)]


class WithoutBody(Body):
    """Records to take out: all that teach a task, all that an API key sent, or a range."""

    task: str | None = None
    """Task key: all updates of the task, also those of compositions that contain it."""
    api_key: str | None = None
    """API key id: all updates that the key sent."""
    sequences: tuple[Sequence, Sequence] | None = None
    """First and last sequence number, both included."""

    _one_form = _exactly_one(("task", "api_key", "sequences"), "give exactly one of task, api_key and sequences")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.sequences is not None and self.sequences[0] > self.sequences[1]:
            raise ValueError("the first of the sequences comes after the last")
        return self


class RollbackBody(Body, json_schema_extra={"examples": [{"without": {"task": "digits"}}]}):
    """`POST /v1/rollback`: back to a sequence number, or as if some records had never been."""

    to_sequence: Annotated[int, Field(ge=0, strict=True)] | None = None
    without: WithoutBody | None = None

    _one_form = _exactly_one(("to_sequence", "without"), "give exactly one of to_sequence and without")


class GivenSecret(Body):
    """Id and secret of an API key that its maker has drawn, for servers of several stores that are to have the same."""

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    secret: str = Field(pattern=r"^[\w-]{43}$")


_QUOTA = "Its own quota; null for the server's, 0 for none."


class ApiKeyRequest(Body):
    """`POST /v1/keys`."""

    name: str = Field("", max_length=256)
    scope: AccessScope
    """`monitor` (metrics); `infer`; `update` (infer, and learn); `replicate` (follow); `admin` (all)."""
    tasks: str = Field("*", min_length=1, max_length=256)
    """A pattern of task keys that it may name: `*` and `?`."""
    groups: str = Field("", max_length=256)
    """Pattern of the groups that its tasks may join, beside those that `tasks` matches."""
    expires: float | None = Field(None, gt=0)
    """Unix seconds; null for never."""
    requests_per_second: float | None = Field(None, ge=0, description=_QUOTA)
    rows_per_second: float | None = Field(None, ge=0, description=_QUOTA)
    updates_per_second: float | None = Field(None, ge=0, description=_QUOTA)
    given: GivenSecret | None = None
    """Id and secret that the key is to have; default: the server draws them."""


class KeyRotation(Body):
    """`POST /v1/keys/{identifier}/rotate`; without a body the server draws a secret."""

    given: GivenSecret | None = None


class MembersBody(Body):
    """`POST /v1/replication/members`."""

    members: list[str] = Field(description="URLs of all servers of the store: as many as before.")


class ApiKeysBody(Body):
    """`POST /v1/replication/api-keys`."""

    api_keys: list[ApiKey] = Field(description="As `GET /v1/replication/api-keys` returns them.")


class EpochBody(Body):
    """`POST /v1/replication/promise` and `/lead`."""

    epoch: int = Field(ge=2, strict=True, description="The new epoch: later than any before.")


class PromotionBody(Body):
    """`POST /v1/replication/promote`."""

    allow_loss: bool = Field(False, description="True to promote also where acknowledged changes may be lost.")


_Number = Annotated[float, Field(ge=-64, le=64)]


class _InputsBody(Body):
    """Rows of numbers, records, texts or images."""

    inputs: Matrix = None
    records: Records = None
    texts: list[Any] | None = None
    """Texts, of tasks of kind texts."""
    images: list[Any] | None = None
    """PNG or JPEG files in base64, of tasks of kind images."""

    @property
    def rows(self) -> Any:
        """Rows of numbers, or records; texts and images as they came."""
        given = (self.inputs, self.records, self.texts, self.images)
        return next((rows for rows in given if rows is not None), None)

    @property
    def originals(self) -> Originals | None:
        """Texts or images."""
        if self.texts is not None:
            return Originals("texts", self.texts)
        return None if self.images is None else Originals("images", self.images)

    _one_form_of_rows = _exactly_one(
        ("inputs", "records", "texts", "images"),
        "give exactly one of inputs (rows of numbers), records (named values), texts and images",
    )


class LocateBody(_InputsBody, json_schema_extra={"examples": [{"inputs": [[0.0, 5.0]]}]}):
    """`POST /v1/locate`: rows of one unknown context."""

    targets: Targets | None = None
    """Targets of the rows, if they are known."""
    candidates: Annotated[list[Any] | None, _CONTEXTS] = Field(None, min_length=1)
    """Candidate contexts; default: every task that takes such rows."""
    exponent_of: str | None = None
    """Task key: find the power of this task that fits the rows best."""
    exponents: tuple[_Number, _Number] | None = None
    """Range of exponents; default: 0 to 1 in cyclic stores, 0 to 4 in others."""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.candidates is not None and self.exponent_of is not None:
            raise ValueError("give candidates or exponent_of, not both")
        if self.exponents is not None and self.exponent_of is None:
            raise ValueError("exponents say where to search: give exponent_of too")
        if self.exponents is not None and not self.exponents[0] < self.exponents[1]:
            raise ValueError("exponents: the first must be smaller than the second")
        return self


class ConsolidateBody(Body):
    """`POST /v1/consolidate`."""

    steps: int = Field(ge=1, strict=True)
    """Number of rehearsal steps over all tasks, taken in short slices."""


class QuarantineBody(Body):
    """`POST /v1/quarantine`."""

    source: str = Field(max_length=256)
    """A task key, or `key:<id>` for an API key."""
    reason: str = Field("", max_length=1024)


ReturnField = Literal["labels", "probabilities", "confidence", "top_k", "logits", "values", "in_scope"]


class _RowsBody(_InputsBody):
    """Rows, and the context of all or of each of them."""

    context: Context = None
    contexts: Annotated[list[Any] | None, _CONTEXTS] = None

    _one_context_form = _exactly_one(
        ("context", "contexts"), "give exactly one of context (one for all rows) and contexts (one per row)"
    )


_ROWS: dict[str, Any] = {"context": "digits", "inputs": [[0.0, 5.0]]}


class InferBody(_RowsBody, json_schema_extra={"examples": [_ROWS | {"return": ["labels"]}]}):
    """`POST /v1/infer`."""

    return_: list[ReturnField] | None = Field(None, alias="return", min_length=1)
    """Fields of the response; default: labels, probabilities, confidence; of mse tasks values."""
    k: int = Field(5, ge=1, le=100, strict=True)
    """Number of labels in `top_k`."""


class EvaluateBody(_RowsBody, json_schema_extra={"examples": [_ROWS | {"targets": ["7"]}]}):
    """`POST /v1/evaluate`."""

    targets: Targets


class UpdateBody(EvaluateBody):
    """`POST /v1/update`."""

    steps: int | None = Field(None, ge=1, strict=True)
    """Number of optimizer steps on these rows, applied as one atomic record; default: the store's."""
    sample_weight: list[Annotated[float, Field(ge=0, le=1000000.0, strict=True)]] | None = None
    """How much each row counts, 0 to 1e6; default: 1 each."""
    grow_labels: bool = Field(False, strict=True)
    """True if targets that are no labels yet become labels, in the same record."""
    standby: bool = Field(False, strict=True)
    """True to teach a task that stands by, as a move to another cell does."""
    origin: tuple[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] | None = None
    """Idempotency key and hash of the request that taught the same in another cell (scope admin)."""


class StreamLine(Body):
    """A line of `POST /v1/stream`: an update or an inference."""

    id: str | None = Field(None, min_length=1, max_length=255)
    """Comes back with the answer; of an update it is the idempotency key."""
    update: UpdateBody | None = None
    """Body of `POST /v1/update`."""
    infer: InferBody | None = None
    """Body of `POST /v1/infer`."""

    _is_one_of_two = _exactly_one(("update", "infer"), "a line has either update or infer")


class RelabelBody(Body, json_schema_extra={"examples": [{"targets": ["7", None]}]}):
    """`POST /v1/updates/{sequence}/relabel`: the targets that the rows of an update should have had."""

    targets: Targets
    """One target a row of the update; null for one that was right."""
