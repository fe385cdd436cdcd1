"""Schema of a task: its rows, its targets, and what it shares with other tasks."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from superposed.config import Config, EncoderName
from superposed.contexts import Task, check_key, flatten, parse
from superposed.encoders.records import MOST_FEATURES, Feature
from superposed.errors import CompositionNotSupported, LabelOutOfRange, ShapeError
from superposed.tasks.labels import Label, LabelType, is_label, is_time, label_type
from superposed.tasks.scaling import Scaling

Loss = Literal["cross_entropy", "mse"]
TaskKey = Annotated[str, AfterValidator(check_key)]

SMALLEST_SCALE = 1e-30
_WHITE = 255.0
# Fields that say nothing of what a row or a class index means.
_WITHOUT_MEANING = {"keep_rows", "group", "own_layers", "composition", "abstain", "standby"}
# The fields of the first release: always written. A later field is written only where it differs from its
# default, so that the digest of a store and the mark of a schema stay what an earlier release computed.
_FIRST_FIELDS = frozenset({"key", "inputs", "outputs", "labels", "loss", "offset", "scale", "description"})


class TaskSchema(Config):
    """Form of a task's rows and targets.

    Args:
        key: The task key.
        inputs: Features of a row, at most the store's.
        outputs: Number of outputs, at most the store's; the number of labels where there are labels.
        labels: The classes, in output order, all bool, number or text (cross-entropy only).
        loss: What updates reduce.
        offset: Subtracted from each feature, (inputs,).
        scale: Each feature is divided by it after the offset, (inputs,), none of them nearer to 0 than 1e-30.
            Features should be of like size then: rows kept for rehearsal have one range for all of them.
        description: Free text.
        keep_rows: Whether rows of it may be kept: a few to see how it fares while others learn, and those
            that it is rehearsed with.
        group: The key of a registered task that it shares its first layers with: there it binds that task's
            context, so that what is common is learned once.
        own_layers: How many of the last layers it binds its own context in; by default the output layer where
            the store expands it, else the later half. Only with a group.
        composition: A mixture or power of registered tasks that it binds instead of a context of its own:
            it starts from what those know, and teaching it moves them. Its canonical text.
        label_form: "datetime" where the labels are times, written as texts by the client.
        scaling: "running" where inputs, and targets of an mse task, are standardised by running statistics
            of the task; "none" where `offset` and `scale` are all that is done.
        kind: Whether inputs are rows of numbers, records of named values, or texts or images that an encoder
            makes rows of; rows of its width are taken too.
        features: Names and kinds of the values of records; None where the first update tells them.
        extra_features: What happens to a record with a name that the task does not have.
        encoder: The store's encoder of its texts or images.
        abstain: Share of its own kept texts that it may leave without a label, as it does with texts that
            are no nearer to what it learned.
        standby: True while it moves to another store: it answers, and takes no updates but of the move.
    """

    key: TaskKey
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)
    labels: tuple[Label, ...] | None = None
    loss: Loss = "cross_entropy"
    offset: tuple[Annotated[float, Field(strict=True)], ...] | None = None
    scale: tuple[Annotated[float, Field(strict=True)], ...] | None = None
    description: str = Field("", max_length=4096)
    keep_rows: bool = Field(True, strict=True)
    group: TaskKey | None = None
    own_layers: int | None = Field(None, ge=1, strict=True)
    composition: str | None = None
    label_form: Literal["datetime"] | None = None
    scaling: Literal["none", "running"] = "none"
    kind: Literal["rows", "records", "texts", "images"] = "rows"
    features: tuple[Feature, ...] | None = Field(None, min_length=1, max_length=MOST_FEATURES)
    extra_features: Literal["refuse", "ignore"] = "refuse"
    encoder: EncoderName | None = None
    abstain: float | None = Field(None, gt=0, le=0.5)
    standby: bool = Field(False, strict=True)

    @field_validator("composition")
    @classmethod
    def _composition_is_one(cls, composition: str | None) -> str | None:
        if composition is None:
            return None
        expression = parse(composition)
        flatten(expression)
        if isinstance(expression, Task):
            raise ValueError("a composition is a mixture or a power, not a single task")
        return str(expression)

    @field_validator("labels")
    @classmethod
    def _labels_have_one_type(cls, labels: tuple[Label, ...] | None) -> tuple[Label, ...] | None:
        if not labels:
            return labels
        return tuple(map(float, labels)) if label_type(labels) == "float" else labels

    @field_validator("scale")
    @classmethod
    def _scale_is_not_zero(cls, scale: tuple[float, ...] | None) -> tuple[float, ...] | None:
        for place, number in enumerate(scale or ()):
            if abs(number) < SMALLEST_SCALE:
                raise ValueError(f"scale {place} is too near to 0: a feature is divided by it")
        return scale

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        alone = self.own_layers and not self.group
        records, texts, encoded = self.kind == "records", self.kind == "texts", self.kind in {"texts", "images"}
        running, fixed = self.scaling == "running", self.offset is not None or self.scale is not None
        classifies, labels, labelled = self.loss == "cross_entropy", self.labels or (), self.labels is not None
        names = [feature.name for feature in self.features or ()]
        contradictions = (
            (alone, "own_layers says what a task does not share with its group: it needs a group"),
            (self.group == self.key, "a task cannot be its own group"),
            (self.group and self.composition, "a task has a group or a composition, not both"),
            (self.key in self.composed_of, "a task cannot be composed of itself"),
            (running and fixed, "scaling is running or given by offset and scale, not both"),
            (records and not running, "records are scaled by running statistics, not by offset and scale"),
            (self.features and not records, "features name the values of records: give kind records too"),
            (len(set(names)) < len(names), "two features have the same name"),
            (encoded != bool(self.encoder), "tasks of texts and images name an encoder of the store, and no others do"),
            (self.abstain and not (texts and classifies), "only a cross_entropy task of texts can abstain"),
            (labelled and not classifies, "labels name the classes of a cross_entropy task; an mse task has none"),
            (labelled and len(labels) != self.outputs, f"{len(labels)} labels, but {self.outputs} outputs"),
            (len(set(labels)) < len(labels), "two labels are the same"),
            (self.label_form and not all(map(is_time, labels)), "labels that are times are given as texts in ISO 8601"),
        )
        for found, problem in contradictions:
            if found:
                raise ValueError(problem)
        for name, values in (("offset", self.offset), ("scale", self.scale)):
            if values is not None and len(values) != self.inputs:
                raise ValueError(f"{name} has {len(values)} numbers, the task has {self.inputs} inputs")
        return self

    @cached_property
    def classes(self) -> Mapping[Label, int]:
        """The class index of each label, by value: 1.0 is 1; empty without labels."""
        return {label: place for place, label in enumerate(self.labels or ())}

    @cached_property
    def fixed_scaling(self) -> Scaling | None:
        """The scaling by `offset` and `scale`, of pixels else to 0 to 1; None for other rows without them."""
        count = self.inputs
        if self.offset is None and self.scale is None:
            return Scaling(np.zeros(count), np.full(count, _WHITE), None) if self.kind == "images" else None
        return Scaling(np.asarray(self.offset or [0.0] * count), np.asarray(self.scale or [1.0] * count), None)

    @cached_property
    def label_type(self) -> LabelType | None:
        """The type of the labels; None without labels."""
        if self.labels is None:
            return None
        kind = label_type(self.labels)
        return self.label_form if kind == "str" and self.label_form else kind

    @cached_property
    def mark(self) -> str:
        """Tell the schema from others: class indexes mean something only with the labels of their time."""
        meaning = self.model_dump_json(exclude=self.defaults | _WITHOUT_MEANING)
        return hashlib.sha256(meaning.encode()).hexdigest()[:16]

    def grown(self, labels: Iterable[Label]) -> Self:
        """Return the schema with those labels added that it does not have yet.

        Raise `LabelOutOfRange` where it has no labels, or labels of another type; `CompositionNotSupported` where the
        task is a composition, whose outputs are those of its parts.
        """
        wanted = tuple(self._as_stored(label) for label in labels)
        if self.labels is None:
            problem, expected = f"task {self.key} has no labels to add to", "a task that was registered with labels"
            raise LabelOutOfRange(problem, expected=expected, received=f"{self.outputs} outputs")
        kind = self.label_type
        fraction = kind == "int" and any(isinstance(label, float) for label in wanted)
        if kind is not None and (fraction or not all(is_label(label, kind) for label in wanted)):
            kinds = ", ".join(sorted({type(label).__name__ for label in wanted}))
            problem = f"labels of another type than those of task {self.key}"
            raise LabelOutOfRange(problem, expected=kind, received=kinds)
        added = [label for label in dict.fromkeys(wanted) if label not in self.classes]
        if added and self.composition is not None:
            problem = f"task {self.key} is a composition: it has the outputs of its parts"
            raise CompositionNotSupported(problem, expected="labels that it has", received=f"{len(added)} new ones")
        longer = (*self.labels, *added)
        return self.replace(labels=longer, outputs=len(longer)) if added else self

    def _as_stored(self, label: Label) -> Label:
        """Return a number as the labels are: 7.0 is the label 7."""
        if isinstance(label, bool | str) or self.label_type not in {"int", "float"}:
            return label
        if self.label_type == "float":
            return float(label)
        return int(label) if float(label).is_integer() else label

    def has_label(self, target: Label) -> bool:
        """Return True if a target of that type and value is a label."""
        kind = self.label_type
        return kind is not None and is_label(target, kind) and self._as_stored(target) in self.classes

    def is_met_by(self, existing: Self) -> bool:
        """Return True if a registered schema is this one, or this one with labels that were added to it."""
        if self.label_type != existing.label_type:
            return False
        here, there = self.labels or (), existing.labels or ()
        if len(here) < len(there) and here == there[: len(here)] and here:
            return self.replace(labels=there, outputs=existing.outputs) == existing
        return self == existing

    @property
    def composed_of(self) -> tuple[str, ...]:
        """The keys of the tasks in its composition, in the order of the text."""
        if self.composition is None:
            return ()
        return tuple(dict.fromkeys(leaf.key for leaf in flatten(parse(self.composition))))

    @property
    def defaults(self) -> set[str]:
        """The fields that came after the first release and have their default."""
        later = {name: field for name, field in type(self).model_fields.items() if name not in _FIRST_FIELDS}
        return {name for name, field in later.items() if getattr(self, name) == field.default}

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; fields that did not exist yet are left out where they have their defaults."""
        return self.model_dump(mode="json", exclude=self.defaults)

    def is_read_as(self, other: Self) -> bool:
        """Return True if the rows of another task are read as its own are."""
        if "records" in {self.kind, other.kind}:
            return self.kind == other.kind and self.inputs == other.inputs
        return self.encoder == other.encoder

    def check_composable(self, other: Self) -> None:
        """Raise `CompositionNotSupported` where this task and another differ in outputs, loss or kind."""
        if other._face != self._face:
            problem = f"tasks {self.key} and {other.key} cannot be composed"
            raise CompositionNotSupported(problem, expected=self._face, received=other._face)

    @property
    def _face(self) -> str:
        """Facts that tasks of one composition have in common; records are encoded by their width."""
        rows = f"records in {self.inputs} inputs" if self.kind == "records" else "rows of numbers"
        return f"{self.outputs} outputs, {self.loss}, {rows}"

    def check_fits(self, inputs: int, outputs: int, layers: int) -> None:
        """Raise `ShapeError` where the task has more inputs, outputs or own layers than a store."""
        for name, limit in (("inputs", inputs), ("outputs", outputs), ("own_layers", layers)):
            if (wanted := getattr(self, name) or 0) > limit:
                problem = f"task {self.key} has more {name.replace('_', ' ')} than the store"
                values = "; values need loss mse" if name == "outputs" and self.loss != "mse" else ""
                raise ShapeError(problem, expected=f"{limit} at most{values}", received=wanted)
