"""Labels that updates add to their tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from superposed.errors import SchemaChanged
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.labels import Label, plain_target
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Target


@dataclass(frozen=True)
class Growth:
    """Labels that a change adds to a task."""

    key: str
    version: int  # version of the task's schema before
    labels: Sequence[Label]  # the labels, none of which the task has

    def schema(self, store: WeightStore) -> TaskSchema:
        """Return the task's schema with the labels; raises as `check_version` and `WeightStore.altered`."""
        check_version(store, self.key, self.version)
        return store.altered(self.key, add_labels=self.labels)


def check_version(store: WeightStore, key: str, version: int) -> None:
    """Raise `SchemaChanged` where a task's schema has another version."""
    if (now := store.tasks.get(key).version) != version:
        text = f"the schema of task {key} has changed: read the task and ask again"
        raise SchemaChanged(text, expected=f"schema_version {now}", received=version)


def growth_for(batch: Batch, targets: Sequence[Target]) -> list[Growth]:
    """Return the labels that targets add to the tasks of their rows, in the order of the rows.

    Rows of compositions add none: a mixture of a task with more outputs than its others cannot be addressed.
    """
    found: dict[str, dict[Label, None]] = {}
    for place, target in zip(batch.places().tolist(), targets, strict=False):
        part, label = batch.parts[place], plain_target(target)
        schema = part.task.schema
        if not (part.is_single and schema.labels is not None) or schema.has_label(label):
            continue
        if isinstance(label, bool | int | float | str):
            found.setdefault(schema.key, {})[label] = None
    versions = {part.task.schema.key: part.task.version for part in batch.parts}
    return [Growth(key, versions[key], list(labels)) for key, labels in found.items()]


def with_schemas(batch: Batch, schemas: Mapping[str, TaskSchema]) -> Batch:
    """Return a batch to read targets against, whose tasks have other schemas; the tasks are as they were."""
    if not schemas:
        return batch
    parts = [
        replace(part, task=replace(part.task, schema=schemas.get(part.task.schema.key, part.task.schema)))
        for part in batch.parts
    ]
    return replace(batch, parts=tuple(parts))
