"""Fields that a task can be registered with."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from numpy.typing import NDArray

from superposed_client._contexts import ContextLike


class TaskFields(TypedDict, total=False):
    """Fields that a task can be registered with.

    Args:
        labels: The classes, in order: all bool, numbers, texts or times. They come back as they are given.
        outputs: Number of outputs, where there are no labels.
        inputs: Features; taken from the first rows where not given.
        loss: `cross_entropy` or `mse`.
        offset: Subtracted from each feature, (inputs,).
        scale: Each feature is divided by it, (inputs,).
        description: Free text.
        keep_rows: Whether the server may keep rows: a few to see how the task fares, and those that it is
            rehearsed with.
        group: The key of the group whose first layers it shares; made with its first member.
        own_layers: How many of the last layers are its own; by default the output layer, if it is expanded.
        composition: A mixture or power of registered tasks that it binds instead of a context of its own.
        scaling: "running" to standardise inputs by running statistics, "none" to leave them as they are.
        features: Names of the values of records, each with its kind: `number`, `category` or `date`; taken
            from the first rows by name where not given.
        extra_features: Whether a record with other names is refused, or those are ignored.
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
