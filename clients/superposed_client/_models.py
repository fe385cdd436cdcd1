"""Responses of the server as typed values. Fields that this client does not know are ignored."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

__all__ = [
    "ApiKey",
    "Capacity",
    "Consolidation",
    "Erasure",
    "EvaluatedAccuracy",
    "Evaluation",
    "Event",
    "Inference",
    "Interference",
    "LayerCrosstalk",
    "LearnedModel",
    "Located",
    "NewApiKey",
    "Prequential",
    "Quarantine",
    "Ranked",
    "Relabelling",
    "Rollback",
    "Score",
    "Snapshot",
    "StoreInfo",
    "TaskInfo",
    "TasksLeft",
    "Update",
]


Label: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Evaluation(_Answer):
    """Loss and accuracy on labelled rows; accuracy is None for mse tasks."""

    rows: int
    loss: float
    accuracy: float | None = None


class Update(Evaluation):
    """Measurement of an update before its first step, and its place in the store's one sequence."""

    sequence: int


class Relabelling(Update):
    """Outcome of a correction: the update that was taken out, and all records that went with it."""

    relabelled: int
    rebuilt_from: int
    excluded: list[tuple[int, int]]


class Score(_Answer):
    """Likelihood that rows belong to a context, among the candidates."""

    context: str
    probability: float


class Ranked(_Answer):
    """A label and its probability."""

    label: Label
    probability: float


class Inference(_Answer):
    """Answers in row order; None for fields that were not asked for or do not apply.

    Labels have the type that they were registered with; `label_form` is "datetime" where they are times.

    `located` says which context `auto` stood for.
    """

    sequence: int
    labels: list[Label | None] | None = None
    label_form: str | None = None
    probabilities: list[list[float] | None] | None = None
    confidence: list[float | None] | None = None
    top_k: list[list[Ranked] | None] | None = None
    logits: list[list[float]] | None = None
    values: list[list[float] | None] | None = None
    located: Score | None = None


class EvaluatedAccuracy(_Answer):
    """A remembered evaluation of a task: its accuracy at a number of taught tasks."""

    tasks: int
    sequence: int
    rows: int
    accuracy: float


class Interference(_Answer):
    """Relations between tasks, in the order asked for.

    `overlap` is the cosine between their contexts; `crosstalk` the energy of the response to each task's
    rows under every context, relative to its own, None for a task of which the server keeps no rows.
    """

    tasks: list[str]
    overlap: list[list[float]]
    crosstalk: list[list[float] | None]


class Event(_Answer):
    """Something that happened: a record's kind (`update`, `register`, …), `load`, or `dropped`."""

    kind: str
    sequence: int | None = None
    data: dict[str, Any]


class Prequential(_Answer):
    """Test-then-train over a task's whole stream; None before its first row."""

    accuracy: float | None = None
    loss: float | None = None


class Located(_Answer):
    """The context that fits rows best, and the likeliest ones."""

    best: str
    scores: list[Score]
    rows: int


class Consolidation(_Answer):
    """Result of rehearsing all tasks: accuracies on kept rows, and the number of accepted steps."""

    sequence: int
    before: dict[str, float]
    after: dict[str, float]
    accepted: bool
    steps: int


class LearnedModel(_Answer):
    """Agreement of a task with the model that it learned, on rows held out."""

    sequence: int
    updates: int
    agreement: float


class TaskInfo(_Answer):
    """A registered task."""

    key: str
    labels: list[Label] | None = None
    label_form: str | None = None
    outputs: int
    inputs: int
    loss: Literal["cross_entropy", "mse"]
    offset: list[float] | None = None
    scale: list[float] | None = None
    description: str = ""
    rows_seen: int
    updates: int
    prequential: Prequential
    last_sequence: int
    rows_kept: int = 0
    keep_rows: bool = True
    group: str | None = None
    own_layers: int | None = None
    composition: str | None = None
    quarantined: int | None = None
    schema_version: int = 1
    scaling: str = "none"
    kind: str = "rows"
    features: list[dict[str, str]] | None = None
    extra_features: str = "refuse"
    temperature: float = 1.0


class StoreInfo(_Answer):
    """Description of a store: family, network, memory in bytes, sequence."""

    family: str
    network: dict[str, Any]
    derivation_version: int
    limits: dict[str, float]
    optimizer: dict[str, Any]
    device: str
    dtype: str
    sequence: int
    tasks: int
    bytes: dict[str, int]
    rehearsal: dict[str, float] = Field(default_factory=dict)
    fingerprint: dict[str, Any]
    journal: dict[str, Any]
    recovery: dict[str, Any]


class TaskPage(_Answer):
    """One page of a listing of tasks."""

    tasks: list[TaskInfo]
    next_cursor: str | None


class LayerCrosstalk(_Answer):
    """Crosstalk of one layer, by the law and as measured."""

    name: str
    crosstalk_predicted: float
    crosstalk_measured: float


class TasksLeft(_Answer):
    """Number of further tasks like these that fit before the mean accuracy falls by `accuracy_drop`."""

    estimate: int
    low: int
    high: int
    accuracy_drop: float


class Capacity(_Answer):
    """Fill level of a store, from its own measurements."""

    tasks: int
    layers: list[LayerCrosstalk]
    mean_accuracy: float | None = None
    tasks_left: TasksLeft | None = None


class Snapshot(_Answer):
    """One snapshot on the server's disk."""

    id: str
    sequence: int
    bytes: int
    sha256: str
    created: str
    digest: str


class Rollback(_Answer):
    """Records that a rollback took out: ranges of sequence numbers, both ends included.

    `rebuilt_from` is the sequence number of the snapshot that the store was rebuilt from; None where there
    was nothing to take out.
    """

    sequence: int
    rebuilt_from: int | None = None
    excluded: list[tuple[int, int]]


class Erasure(_Answer):
    """The outcome of an erasure: records whose rows were removed, and forgotten rows kept for rehearsal.

    `snapshots_until` is the time (Unix seconds) until which older snapshots, which may hold such rows, stay
    for rollbacks; None where there are none, or they are gone.
    """

    records: int
    rows: int
    snapshots_until: float | None = None


class Quarantine(_Answer):
    """A source (a task key, or `key:<id>`) whose updates are recorded and not learned from.

    `since` is the sequence number of the decision, `reason` who decided it and why.
    """

    source: str
    since: int
    reason: dict[str, Any] | None = None


class ApiKey(_Answer):
    """An API key, without its secret. Times are Unix seconds; `since` is a sequence number.

    Quotas are those of its own; None where the server's settings hold.
    """

    id: str
    name: str
    scope: str
    tasks: str
    created: float
    since: int
    expires: float | None = None
    revoked: float | None = None
    requests_per_second: float | None = None
    rows_per_second: float | None = None
    updates_per_second: float | None = None


class NewApiKey(_Answer):
    """A new API key, or one with a new secret. Its text, `key`, is shown this once and kept out of `repr`."""

    id: str
    key: str = Field(repr=False)
