"""Responses of the server as typed values. Fields that this client does not know are ignored."""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from superposed_client._shown import frame, short, table

Label: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr


class _Answer(BaseModel):
    # Fields with a default may be missing in the answers of an earlier server, not in those of this release.
    model_config = ConfigDict(extra="ignore", frozen=True, json_schema_serialization_defaults_required=True)

    def shown(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values that say something: none that has its default, or is kept out of `repr`."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.repr and (field.is_required() or value != field.default):
                yield name, value

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={short(value)}" for name, value in self.shown())
        return f"{type(self).__name__}({said})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return table(self.shown())


class _PartialAnswer(_Answer):
    """An answer whose fields with a default are left out where they do not apply."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)


class Evaluation(_PartialAnswer):
    """Loss and accuracy on labelled rows; accuracy is None for mse tasks."""

    rows: int
    loss: float
    accuracy: float | None = Field(None, description="Fraction of correct labels; absent without labels.")


class Update(Evaluation):
    """Measurement of an update before its first step, and its place in the store's one sequence."""

    sequence: int


class Relabelling(Update):
    """Outcome of a correction: the update that was taken out, and all records that went with it."""

    relabelled: int = Field(description="Sequence number of the update that was taken out.")
    rebuilt_from: int = Field(description="Sequence number of the snapshot that the store was rebuilt from.")
    excluded: list[tuple[int, int]] = Field(description="Ranges of records taken out, both ends included.")


class Score(_Answer):
    """Likelihood that rows belong to a context, among the candidates."""

    context: str
    probability: float
    evidence: float = Field(0.0, description="Sum over rows of energy, or of minus the loss.")


class Ranked(_Answer):
    """A label and its probability."""

    label: Label
    probability: float


class Inference(_PartialAnswer):
    """Answers in row order; None for fields that were not asked for or do not apply.

    Labels have the type that they were registered with; `label_form` is "datetime" where they are times.

    `located` says which context `auto` stood for.
    """

    sequence: int
    labels: list[Label | None] | None = None
    label_form: str | None = Field(None, description="datetime where the labels are times, written as texts.")
    probabilities: list[list[float] | None] | None = Field(None, description="Calibrated probabilities.")
    confidence: list[float | None] | None = Field(None, description="Probability of the label.")
    top_k: list[list[Ranked] | None] | None = Field(None, description="Likeliest labels, best first.")
    logits: list[list[float]] | None = None
    values: list[list[float] | None] | None = None
    in_scope: list[bool] | None = Field(None, description="False where a task abstains: no label is given.")
    located: Score | None = Field(None, description="The context that `auto` resolved to.")

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row for each row, and a column for each field that was answered."""
        return frame({name: value for name, value in self if isinstance(value, list)})


class EvaluatedAccuracy(_Answer):
    """A remembered evaluation of a task: its accuracy at a number of taught tasks."""

    tasks: int = Field(description="Number of tasks that had been taught at the time of the evaluation.")
    sequence: int = Field(description="Sequence number of the evaluated weights.")
    rows: int
    accuracy: float


class Interference(_Answer):
    """Relations between tasks, in the order asked for."""

    tasks: list[str]
    overlap: list[list[float]] = Field(description="Cosine between contexts: 1 if equal, 0 if independent.")
    crosstalk: list[list[float] | None] = Field(
        description="Energy of the response to each task's rows under every context, relative to its own; "
        "null for a task of which no rows are kept."
    )


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
    before: dict[str, float] = Field(description="Accuracy of each task on kept rows before the first slice.")
    after: dict[str, float] = Field(description="Accuracy of each task on kept rows after the last slice.")
    accepted: bool = Field(description="True if every slice was accepted.")
    steps: int = Field(description="Number of steps that were accepted.")


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
    rows_kept: int = Field(0, description="Number of rows kept for rehearsal.")
    keep_rows: bool = True
    group: str | None = None
    own_layers: int | None = None
    composition: str | None = None
    quarantined: int | None = Field(None, description="Sequence number of its quarantine; null without one.")
    schema_version: int = Field(1, description="Version of the schema: each change of it adds 1.")
    scaling: str = "none"
    kind: str = "rows"
    features: list[dict[str, str]] | None = Field(None, description="Of records, once they are known.")
    extra_features: str = "refuse"
    encoder: str | None = Field(None, description="Encoder of its texts or images.")
    abstain: float | None = Field(None, description="Share of its kept texts that may get no label.")
    temperature: float = Field(1.0, description="Divisor of the logits of calibrated probabilities.")
    standby: bool = Field(False, description="True while it is taught what a task of another cell knows.")


class StoreBytes(_Answer):
    """Memory, in bytes."""

    weights: int
    optimizer: int
    contexts_cached: int
    kept_rows: int
    statistics: int = Field(0, description="Running statistics of the tasks.")


class JournalInfo(_Answer):
    """The journal: what a recovery would replay, and whether it can be written."""

    horizon: int = Field(description="The sequence number before the oldest record.")
    sequence: int
    records_since_snapshot: int
    failure: str | None = Field(None, description="Why nothing is learned until the next start, or null.")
    lineage: str = Field("", description="The store's identity: the same in every copy, export and backup.")
    incarnation: str | None = Field(None, description="Identity of the serving process; it changes at each start.")


class RecoveryInfo(_Answer):
    """Recovery of the store when the service was started."""

    snapshot: str  # that it was read from
    replayed: int  # records after it
    fingerprint_changed: bool = Field(description="Records were replayed by other arithmetic, to rounding.")
    rules_changed: bool = Field(False, description="Another release wrote them; no rollback reaches past it.")
    damaged: list[str] = Field(description="Newer snapshots that could not be read.")


class EncoderInfo(_Answer):
    """An encoder of texts or images."""

    spec: str
    kind: str
    width: int
    fingerprint: str
    status: str = Field(description="`loading`, `ready`, or the reason why it cannot be used.")


class StoreInfo(_Answer):
    """`GET /v1/store`."""

    preset: str | None = Field(None, description="Preset that the store's settings were taken from.")
    family: str
    network: dict[str, Any]
    derivation_version: int
    limits: dict[str, float]
    optimizer: dict[str, Any]
    device: str
    dtype: str
    sequence: int
    tasks: int
    bytes: StoreBytes
    rehearsal: dict[str, float] = Field(default_factory=dict, description="Configuration of rehearsal.")
    fingerprint: dict[str, Any]
    journal: JournalInfo
    recovery: RecoveryInfo
    encoders: dict[str, EncoderInfo] = Field(default_factory=dict, description="Encoders by name.")


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


class Capacity(_PartialAnswer):
    """Fill level of a store, from its own measurements."""

    tasks: int
    layers: list[LayerCrosstalk]
    mean_accuracy: float | None = None
    tasks_left: TasksLeft | None = None


class Snapshot(_Answer):
    """One snapshot on the server's disk."""

    id: str
    sequence: int
    bytes: int  # of the file
    sha256: str = Field(description="SHA-256 of the file.")
    created: str  # UTC, ISO 8601
    digest: str = Field(description="SHA-256 of the store: weights, optimizer state, sequence number, tasks.")
    chain: str = Field("", description="The journal's hash chain at that record; empty before release 0.2.")
    lineage: str = Field("", description="The store's identity; empty before release 0.2.")


class Rollback(_Answer):
    """Records that a rollback took out; `rebuilt_from` is None where there was nothing to take out."""

    sequence: int = Field(description="Sequence number of the rollback; those taken out are not used again.")
    rebuilt_from: int | None = Field(None, description="Sequence number of the snapshot that it began with.")
    excluded: list[tuple[int, int]] = Field(description="Ranges of records taken out, both ends included.")


class Erasure(_Answer):
    """The outcome of an erasure."""

    records: int = Field(description="Number of records that lost their rows in the journal.")
    rows: int = Field(description="Number of rehearsal rows that were forgotten.")
    snapshots_until: float | None = Field(
        None,
        description="Unix seconds until when older snapshots, which may hold such rows, stay for rollbacks;"
        " null where there are none, or they are gone.",
    )
    followers_pending: int = Field(0, description="Number of followers that have not recorded the erasure yet.")


class Quarantine(_Answer):
    """A source whose updates are recorded and not learned from."""

    source: str = Field(description="A task key, or `key:<id>` for an API key.")
    since: int = Field(description="Sequence number of the decision.")
    reason: dict[str, Any] | None = Field(None, description="The decision; null before the journal's begin.")


class ServerState(_Answer):
    """One of a store's servers."""

    member: str = Field(description="Random name of its data directory.")
    role: str = Field(description="`leader`, `follower`, or `waiting` for a leader.")
    epoch: int = Field(description="The newest epoch that it has promised.")
    sequence: int = Field(description="Sequence number of its newest applied record.")
    leader: str = Field(description="URL of the server that it follows; empty for none.")
    members: list[str] = Field(description="URLs of all servers, as its settings have them.")
    sync_followers: int = Field(description="Followers that must have a change, as its settings have it.")
    kept_aside: list[str] = Field(description="Files in its data directory with records that no leader has.")


class Promotion(_Answer):
    """The outcome of a promotion."""

    leader: str = Field(description="URL of the new leader; empty: the server that was asked.")
    epoch: int = Field(description="The epoch that it leads.")
    sequence: int = Field(description="Its newest record before that.")
    promised: int = Field(description="Number of servers that have promised the epoch.")


class ApiKey(_Answer):
    """An API key, without its secret."""

    id: str
    name: str
    scope: str = Field(
        description="`monitor` (metrics); `infer`; `update` (infer, and learn); `replicate` (follow); `admin` (all).",
        json_schema_extra={"enum": ["monitor", "infer", "update", "replicate", "admin"]},
    )
    tasks: str = Field(description="A pattern of task keys that it may name: `*` and `?`.")
    groups: str = Field("", description="A pattern of groups that its tasks may join.")
    created: float = Field(description="Unix seconds.")
    since: int = Field(description="Sequence number of the journal when the key was made.")
    expires: float | None = Field(None, description="Unix seconds; null for never.")
    revoked: float | None = Field(None, description="Unix seconds; null while it is good.")
    requests_per_second: float | None = Field(None, description="Its own quota; null for the server's, 0: none.")
    rows_per_second: float | None = Field(None, description="Its own quota; null for the server's, 0: none.")
    updates_per_second: float | None = Field(None, description="Its own quota; null for the server's, 0: none.")


class NewApiKey(_Answer):
    """A new API key, or one with a new secret. Its text, `key`, is shown this once and kept out of `repr`."""

    id: str
    key: str = Field(repr=False, description="The secret, for `Authorization: Bearer …`; it is shown once.")


__all__ = ["ApiKey", "Capacity", "Consolidation", "EncoderInfo", "Erasure", "EvaluatedAccuracy", "Evaluation"]
__all__ += ["Event", "Inference", "Interference", "JournalInfo", "LayerCrosstalk", "Located", "NewApiKey"]
__all__ += ["Prequential", "Promotion", "Quarantine", "Ranked", "RecoveryInfo", "Relabelling", "Rollback"]
__all__ += ["Score", "ServerState", "Snapshot", "StoreBytes", "StoreInfo", "TaskInfo", "TaskPage", "TasksLeft"]
__all__ += ["Update"]
