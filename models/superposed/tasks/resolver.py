"""From context expressions to what they stand for among the registered tasks."""

from collections.abc import Sequence
from dataclasses import replace

from superposed.contexts import Context, Leaf, Task, as_expression, flatten, parse
from superposed.errors import CapacityExceeded, CompositionNotSupported
from superposed.tasks.batch import ResolvedContext
from superposed.tasks.registry import TaskRegistry, TaskState

# Largest number and length of context texts in the cache.
_MOST_KEPT, _LONGEST_KEPT = 65_536, 256
# Each share is a generator to draw and add up: what one batch may make the store derive.
_MOST_SHARES = 8192


class Resolver:
    """Resolves contexts against a registry; what a text means is kept until the registry changes."""

    def __init__(self, tasks: TaskRegistry) -> None:
        self._tasks = tasks
        self._kept: dict[str, ResolvedContext] = {}

    def forget(self) -> None:
        """Clear what was cached, after a task was registered or deleted."""
        self._kept.clear()

    def kept(self, context: object) -> ResolvedContext | None:
        """Return the cached meaning of a context's text; None where it is not cached. Any thread."""
        return self._kept.get(context) if isinstance(context, str) else None

    def resolve(self, context: object) -> ResolvedContext:
        """See `WeightStore.resolve`."""
        if not isinstance(context, str) or len(context) > _LONGEST_KEPT:
            return self._resolve(context)
        if (known := self._kept.get(context)) is None:
            known = self._resolve(context)
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[context] = known
        return known

    def resolve_each(self, contexts: Sequence[object]) -> list[ResolvedContext]:
        """Return the meaning of each row's context; equal contexts are resolved once.

        Raise `CapacityExceeded` where they name too many tasks in all, or as `WeightStore.resolve`.
        """
        known: dict[str, ResolvedContext] = {}
        names: list[str] = []
        shares = 0
        for context in contexts:
            name = context if isinstance(context, str) else str(as_expression(context))
            names.append(name)
            if name not in known:
                known[name] = self.resolve(context)
                shares += max(1, name.count(":"))  # as often as it names them
            if shares > _MOST_SHARES:
                problem = "the contexts of one batch name too many tasks"
                raise CapacityExceeded(problem, expected=f"{_MOST_SHARES} in all at most")
        return [known[name] for name in names]

    def _resolve(self, context: object) -> ResolvedContext:
        expression = as_expression(context)
        leaves = flatten(expression)
        tasks = [self._tasks.member(leaf.key, leaf.group) for leaf in leaves]
        declared = next((task for task in tasks if task.schema.composition is not None), None)
        if declared is None:
            return self._composed(leaves)
        if not isinstance(expression, Task):
            problem = "a task that is a composition is addressed by its key alone"
            expected = "tasks with contexts of their own"
            raise CompositionNotSupported(problem, expected=expected, received=declared.schema.key)
        parts = self._composed(flatten(parse(declared.schema.composition or "")))
        keep_rows = parts.keep_rows and declared.schema.keep_rows
        if declared.schema.scaling != "running":
            return ResolvedContext(parts.context, declared, keep_rows)
        return replace(parts, task=declared, keep_rows=keep_rows)

    def _composed(self, leaves: Sequence[Leaf]) -> ResolvedContext:
        states = {leaf.key: self._tasks.member(leaf.key, leaf.group) for leaf in leaves}
        weight = dict.fromkeys(states, 0.0)  # in the order of the text, so that ties go to the first
        for leaf in leaves:
            weight[leaf.key] += leaf.weight
        task = states[max(weight, key=lambda key: weight[key])]
        for other in states.values():
            task.schema.check_composable(other.schema)
        ids = {key: state.id for key, state in states.items()}
        keep_rows = all(state.schema.keep_rows for state in states.values())
        units = task if task.schema.scaling == "running" and task.schema.loss == "mse" else None
        return ResolvedContext(Context.from_leaves(leaves, ids), task, keep_rows, self._scaler(task), units)

    def _scaler(self, task: TaskState) -> TaskState | None:
        """Return the task whose statistics scale a task's rows: those of a group share their first layers."""
        schema = task.schema
        if schema.scaling != "running":
            return None
        group = self._tasks.get(schema.group) if schema.group is not None else task
        return group if group.schema.scaling == "running" and group.schema.is_read_as(schema) else task
