"""The weight store: one set of weights, its optimizer's state, its sequence, and its tasks."""

import hashlib
import json
import secrets
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superposed.config import StoreConfig
from superposed.contexts import Binding, Context, ContextSource, ContextTable, family_named
from superposed.contexts.keys import DERIVATION_VERSION, SECRET_BYTES, Stream, TaskId
from superposed.errors import ConfigError, ShapeError
from superposed.nn import MLP, build, optimizers
from superposed.store import tensorfile
from superposed.store.evaluations import Evaluations
from superposed.store.replay_buffer import Drawn, ReplayBuffer, Split
from superposed.tasks.batch import Batch, ResolvedContext, one_context, one_context_each, per_row
from superposed.tasks.labels import Label
from superposed.tasks.registry import TaskRegistry, TaskState
from superposed.tasks.resolver import Resolver
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets, in_user_units

# 2: rows are kept before scaling, in 8 bits a number by feature; tasks have running statistics.
# 3: the output layer may be expanded; updates rehearse their own tasks' rows too.
FORMAT_VERSION, READABLE_FORMATS = 3, (1, 2, 3)

_PROBE = Context(((TaskId("~"), 1.0, None),))  # no key is written so
_TIMES = 5


class WeightStore:
    """Many task models in one set of weights.

    Nothing in the weights' shape depends on the tasks: a task is a registry entry and the contexts
    derived from its key. Not thread-safe: one thread owns a store.

    Args:
        config: Network, family, optimizer, limits.
        secret: 32 bytes that all contexts and the initial weights are derived from; drawn from the
            operating system where not given. It and one retrieved model reveal every task.
        device: Where the weights live.
        initialized: Whether initial weights are drawn; otherwise they are 0 until a state is loaded.
    """

    def __init__(
        self,
        config: StoreConfig | None = None,
        *,
        secret: bytes | None = None,
        device: str | torch.device = "cpu",
        initialized: bool = True,
    ) -> None:
        self.config = config or StoreConfig()
        self.secret = secrets.token_bytes(SECRET_BYTES) if secret is None else secret
        self.device = torch.device(device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[self.config.dtype]
        family = family_named(self.config.family)
        seed = int.from_bytes(Stream(self.secret, ("weights",)).bytes(8, "seed"), "little", signed=True)
        network = self.config.network
        self.network = build(network, family, seed, self.dtype, initialized=initialized).to(self.device)
        groups = optimizers.parameter_groups(self.config.optimizer, self.network)
        self.optimizer = optimizers.Optimizer(self.config.optimizer, groups, fused=self.device.type == "cpu")
        layers = self.network.superposed_layers()
        expanded = {name: layer.family for name, layer in layers.items() if layer.family is not family}
        features = {name: layer.bound_features for name, layer in layers.items()}
        source = ContextSource(family, features, self.secret, expanded)
        self.contexts = ContextTable(source, self.config.context_table_bytes, self.dtype, self.device)
        self.tasks = TaskRegistry()
        self.sequence = 0
        self.evaluations = Evaluations()
        self._resolver = Resolver(self.tasks)
        kept = self.config.rehearsal
        self.replay_buffer = ReplayBuffer(kept, network.inputs, network.outputs, self.dtype, self.secret)
        self._precision: torch.dtype | None = None  # of inference on a GPU; None for the weights' own

    # Tasks

    def completed(self, schema: TaskSchema) -> TaskSchema:
        """Return the schema with what it leaves to the store filled in: it is recorded, and never decided again.

        A member's own layers are the output layer where that is expanded, else the later half.
        """
        if schema.group is None or schema.own_layers is not None:
            return schema
        layers = len(self.contexts.source.features)
        return schema.replace(own_layers=1 if self.config.network.expansion > 1 else (layers + 1) // 2)

    def find_same(self, schema: TaskSchema) -> TaskState | None:
        """Return the task that is registered with exactly this schema; None where it could be registered.

        Raise `TaskExists` where the key is registered with another schema; `ShapeError` where the task has more inputs,
        outputs or own layers than the store; `UnknownTask` where a task of its composition is not registered;
        `CompositionNotSupported` where its group is in a group itself, or a composition; or the family has none.
        """
        network, schema = self.config.network, self.completed(schema)
        schema.check_fits(network.inputs, network.outputs, len(self.contexts.source.features))
        if schema.composition is not None:
            composed = self.resolve(schema.composition)
            composed.task.schema.check_composable(schema)
            self.contexts.bind_all(composed.context)
        return self.tasks.find_same(schema)

    def group_to_make(self, schema: TaskSchema) -> TaskSchema | None:
        """Return the schema of a new task's group, where no task has its key yet: its members' inputs."""
        if schema.group is None or schema.group in self.tasks or schema.key in self.tasks:
            return None
        shared = {"inputs", "outputs", "loss", "scaling", "kind", "encoder", "extra_features", "keep_rows"}
        return TaskSchema(key=schema.group, **schema.model_dump(include=shared))

    def check_image(self, schema: TaskSchema) -> None:
        """Raise `ShapeError` where a task's rows are narrower than the images that the network takes.

        They would be padded at their end, and so fall on other pixels than they came from.
        """
        network = self.config.network
        if network.kind != "mlp" and schema.inputs < network.inputs:
            problem = f"rows of task {schema.key} are no images of this store's network"
            expected = f"{network.inputs} numbers: {' x '.join(map(str, network.input_shape))}"
            raise ShapeError(problem, expected=expected, received=schema.inputs)

    def register(self, schema: TaskSchema, *, author: str = "", recorded: bool = False) -> tuple[TaskState, bool]:
        """Register a task; costs no weight memory. `superposed.register` also starts a member of a group.

        The result is the task, and True where it is new: the same schema again changes nothing. A group that is not
        registered yet is registered with its first member. Raises as `find_same` and `check_image`.

        `author` is the name of the one that registers it, empty where that is not known. A task that was admitted
        before, by this release or an earlier one, and is replayed, is `recorded`.
        """
        if not recorded:
            self.check_image(schema)
        if (existing := self.find_same(schema)) is not None:
            return existing, False
        self._resolver.forget()
        if (group := self.group_to_make(schema)) is not None:
            self.tasks.add(group, author).last_sequence = self.sequence + 1
        state = self.tasks.add(self.completed(schema), author)
        self.sequence += 1
        state.last_sequence = self.sequence
        return state, True

    def altered(
        self, key: str, *, add_labels: Iterable[Label] = (), scaling: Mapping[str, Any] | None = None
    ) -> TaskSchema:
        """Return a task's schema with labels added, or with another offset, scale or standby; nothing is changed.

        Labels that it has already are passed over.

        Raises:
            UnknownTask: There is none.
            LabelOutOfRange: It has no labels, or labels of another type.
            ShapeError: It would have more outputs than the store.
            TaskInUse: Tasks are composed of it, which have its number of outputs.
            ConfigError: An offset or scale that the task cannot have.
        """
        schema = self.tasks.get(key).schema
        labels = tuple(add_labels)
        new = schema.grown(labels) if labels else schema
        if new is not schema:
            self.tasks.check_growable(key)
            network = self.config.network
            new.check_fits(network.inputs, network.outputs, len(self.contexts.source.features))
        return new.replace(**scaling) if scaling else new

    @contextmanager
    def growing(self, schemas: Mapping[str, TaskSchema]) -> Iterator[None]:
        """Give tasks grown schemas, as part of a change; where the change fails they are as they were."""
        states = {key: self.tasks.get(key) for key in schemas}
        before = {key: (one.schema, one.version, one.registered_mark) for key, one in states.items()}
        for key, state in states.items():
            state.alter(schemas[key])
        try:
            if schemas:
                self._resolver.forget()
            yield
        except Exception:
            for key, state in states.items():
                state.schema, state.version, state.registered_mark = before[key]
            raise

    def alter(self, key: str, schema: TaskSchema) -> TaskState:
        """Give a task a later version of its schema, as `altered` returned it."""
        state = self.tasks.get(key)
        state.alter(schema)
        self._resolver.forget()
        self.sequence += 1
        state.last_sequence = self.sequence
        return state

    def delete(self, key: str) -> None:
        """Forget a task: its key, registered again, gets a fresh context. Raises as `TaskRegistry.check_removable`."""
        self.tasks.remove(key)
        self._resolver.forget()
        self.evaluations.forget(key)
        self.replay_buffer.forget(key)
        self.sequence += 1

    def forget_rows(self, key: str, *, missing_ok: bool = False) -> int:
        """Forget the rows that are kept of a task; what they taught stays. Returns how many there were.

        Raise `UnknownTask` where there is no such task, and `missing_ok` does not allow that it was deleted.
        """
        if not missing_ok:
            self.tasks.get(key)
        self.sequence += 1
        return self.replay_buffer.forget(key)

    def draw(
        self, rows: int, *, sequence: int | None = None, step: int = 0, share: Split = Split.ALL
    ) -> tuple[Batch, Targets] | None:
        """Draw kept rows of all tasks but those in quarantine; None where nothing is kept.

        Arguments as `ReplayBuffer.draw`; the default of `sequence` is the next change's.
        """
        change = self.sequence + 1 if sequence is None else sequence
        keys, room = self.tasks.quarantined, self.contexts.capacity
        drawn = self.replay_buffer.draw(self._resolver, change, step, (0, rows), keys, room, share=share)
        return None if drawn is None else (drawn.batch, drawn.targets)

    def draw_beside(self, batch: Batch, rows: tuple[int, int], *, step: int = 0) -> Drawn | None:
        """Draw kept rows to learn beside a batch, as `ReplayBuffer.draw` by the next sequence number.

        Tasks in quarantine are not drawn from, nor are the batch's own as others.
        """
        besides = set(self.tasks.quarantined).union(*(part.keys for part in batch.parts))
        room = self.contexts.capacity - len(batch.parts)
        return self.replay_buffer.draw(self._resolver, self.sequence + 1, step, rows, besides, room, batch.parts)

    def tasks_taught(self) -> int:
        """Return the number of registered tasks that have had at least one update."""
        return sum(state.updates > 0 for state in self.tasks.all())

    # From contexts and rows to batches

    def resolve(self, context: object) -> ResolvedContext:
        """Find what a context expression (or its text or JSON form) stands for.

        Raise `ExpressionInvalid` where it is no expression; `UnknownTask` where a key in it is not registered;
        `CompositionNotSupported` where its parts differ in outputs or loss.
        """
        return self._resolver.resolve(context)

    def batch(self, context: object, inputs: object, *, learning: bool = False) -> Batch:
        """Return rows that all belong to one context; see `superposed.tasks.batch.one_context`."""
        return one_context(self.resolve(context), inputs, self.config.network.inputs, self.dtype, learning=learning)

    def has_at_hand(self, context: object) -> bool:
        """Return True if a context is resolved and materialised, so that neither costs anything now."""
        known = self._resolver.kept(context)
        return known is not None and self.contexts.holds(known.context)

    def batch_each(self, parts: Sequence[ResolvedContext], inputs: Sequence[object]) -> Batch | None:
        """Join the rows of several requests, each of one context; see `one_context_each`."""
        return one_context_each(parts, inputs, self.config.network.inputs, self.dtype)

    def batch_per_row(self, contexts: Sequence[object], inputs: Sequence[Any], *, learning: bool = False) -> Batch:
        """Return rows that have a context each; see `superposed.tasks.batch.per_row`, `Resolver.resolve_each`."""
        parts = self._resolver.resolve_each(contexts)
        return per_row(parts, inputs, self.config.network.inputs, self.dtype, learning=learning)

    # Answers

    def bindings(self, batch: Batch) -> Mapping[str, Binding]:
        """Return every layer's binding for a batch, independent of earlier requests.

        Raise `CapacityExceeded` for more distinct contexts than the table holds; `CompositionNotSupported` where the
        family has no such composition.
        """
        return self.contexts.gather([part.context for part in batch.parts], batch.index)

    def logits(self, batch: Batch) -> Tensor:
        """Answer a batch without learning: (B, store outputs), on the CPU, in the network's own units.

        Each row's answer is its task's first outputs; what stands beyond them means nothing. Raises as `bindings`.
        """
        outputs = self.config.network.outputs
        with torch.inference_mode():
            if batch.index is None:
                bindings = self.contexts.bind_all(batch.parts[0].context)
            else:
                bindings = self.contexts.bind_rows([part.context for part in batch.parts], batch.index)
            needed = max(part.task.schema.outputs for part in batch.parts)
            if not isinstance(self.network, MLP) or needed > outputs // 2:
                return self._infer(batch.inputs, bindings)
            answers = batch.inputs.new_zeros(len(batch), outputs)
            answers[:, :needed] = self._infer(batch.inputs, bindings, needed=needed)
            return answers

    def _infer(self, inputs: Tensor, bindings: Mapping[str, Binding], **how: int) -> Tensor:
        """Return logits of rows, on the CPU; products are of the precision of inference."""
        if self.device.type == "cpu":
            found: Tensor = self.network(inputs, bindings, **how)
            return found
        with torch.autocast(self.device.type, self._precision, enabled=self._precision is not None):
            answer: Tensor = self.network(inputs.to(self.device), bindings, **how)
        return answer.to(inputs.dtype).cpu()

    def _infer_probe(self, inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._infer(inputs, self.contexts.bind_all(_PROBE))

    def answers(self, batch: Batch, network: Callable[[Batch], Tensor] | None = None) -> Tensor:
        """Answer a batch as users see it: (B, store outputs), values of mse tasks in their own units.

        A task that no update has taught answers as its group does, if that was taught and has the same
        outputs; else with 0, which is the uniform distribution. `network` answers in the network's own units; by
        default it is `logits`.
        """
        network = network or self.logits
        parts = [self._known(part) for part in batch.parts]
        if all(one is two for one, two in zip(parts, batch.parts, strict=True)):
            return in_user_units(batch, network(batch))
        answered = replace(batch, parts=tuple(one or two for one, two in zip(parts, batch.parts, strict=True)))
        logits = in_user_units(answered, network(answered)).clone()
        unknown = torch.tensor([part is None for part in parts])[batch.places()]
        return logits.masked_fill_(unknown[:, None], 0.0)

    def _known(self, part: ResolvedContext) -> ResolvedContext | None:
        """Return a context that answers for a task: its own, its group's before it is taught, or none."""
        schema = part.task.schema
        if part.task.knows or schema.composition is not None or not part.is_single:
            return part
        if schema.group is None or not (group := self.tasks.get(schema.group)).updates:
            return None
        alike = (group.schema.outputs, group.schema.loss) == (schema.outputs, schema.loss)
        found = self.resolve(schema.group)
        return replace(part, context=found.context, units=found.units) if alike else None

    def answer_seconds(self, rows: int) -> float:
        """Return the seconds that a batch of `rows` rows takes now: the least of a few times."""
        probe = torch.zeros(rows, self.config.network.inputs, dtype=self.dtype)
        return min(timeit.repeat(lambda: self._infer_probe(probe), number=1, repeat=_TIMES))

    def prepare(self, precision: torch.dtype | None = None) -> None:
        """Compile now, not at the first use; `precision` is that of a GPU's products, None for the weights' own."""
        self._precision = None if precision == self.dtype else precision
        if isinstance(self.network, MLP):
            self.network.prepare(self.dtype)
        if self.device.type != "cpu":
            self._infer_probe(torch.zeros(1, self.config.network.inputs, dtype=self.dtype))

    # Bytes and state

    @property
    def lineage(self) -> str:
        """The store's identity, 32 hexadecimal digits, the same in every copy; it tells nothing of the secret."""
        return Stream(self.secret, ("lineage",)).bytes(16, "identity").hex()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights; the same for one task and for a thousand."""
        return sum(parameter.nbytes for parameter in self.network.parameters())

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state."""
        return sum(tensor.nbytes for tensor in optimizers.optimizer_state(self.network, self.optimizer).values())

    def _learned_tensors(self) -> dict[str, Tensor]:
        """Return the running statistics of all tasks, where there are any."""
        statistics = self.tasks.statistics()
        return {"statistics": torch.from_numpy(statistics)} if len(statistics) else {}

    def state(self) -> dict[str, Tensor]:
        """Return weights and optimizer state by name, sharing memory with the store."""
        return optimizers.state(self.network, self.optimizer)

    def digest(self) -> str:
        """Return SHA-256 over weights, optimizer state, kept rows, statistics, sequence and registry."""
        hasher = hashlib.sha256()
        tensors = self.state() | self.replay_buffer.state() | self._learned_tensors()
        for name, tensor in sorted(tensors.items()):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hasher.update(tensor.cpu().contiguous().numpy().tobytes())
        rows = {"rehearsal": self.replay_buffer.to_json()} if self.replay_buffer.enabled else {}
        facts = [self.sequence, self.tasks.to_json() | rows]
        hasher.update(json.dumps(facts, sort_keys=True).encode())
        return hasher.hexdigest()

    def to_bytes(self, *, kept_rows: bool = True) -> bytes:
        """Return the whole store, secret included, as one safetensors file with JSON metadata.

        The registry is JSON in a byte tensor: it grows with the tasks, and a header is bounded. With `kept_rows`
        the rows that are kept for rehearsal go with it.
        """
        metadata = {
            "format": FORMAT_VERSION,
            "derivation_version": DERIVATION_VERSION,
            "secret": self.secret.hex(),
            "config": self.config.model_dump(mode="json"),
            "sequence": self.sequence,
        }
        registry = {"tasks": self.tasks.to_json(), "evaluations": self.evaluations.to_json()}
        tensors = self.state() | self._learned_tensors()
        if kept_rows and self.replay_buffer.enabled:
            registry["rehearsal"] = self.replay_buffer.to_json()
            tensors |= self.replay_buffer.state()
        return tensorfile.dump(tensors | {"registry": tensorfile.json_tensor(registry)}, metadata)

    def save(self, path: str | Path) -> None:
        """Write the store durably to a file that only its owner may read, whole or not at all."""
        tensorfile.write(path, self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, *, device: str | torch.device = "cpu") -> "WeightStore":
        """Read what `to_bytes` gave; raise `ConfigError` for no store, or a format that this release cannot read."""
        tensors, metadata = tensorfile.parse(data)
        supported = {"format": READABLE_FORMATS, "derivation_version": (DERIVATION_VERSION,)}
        for name, versions in supported.items():
            if (found := metadata.get(name)) not in versions:
                raise ConfigError(f"a store of another {name}", expected=f"one of {versions}", received=found)
        config, secret = StoreConfig.saved(metadata["config"]), bytes.fromhex(metadata["secret"])
        store = cls(config, secret=secret, device=device, initialized=False)
        optimizers.load_state(store.network, store.optimizer, tensors)
        store.sequence = metadata["sequence"]
        registry = json.loads(tensors["registry"].numpy().tobytes())
        statistics = tensors.get("statistics")
        store.tasks = TaskRegistry.from_json(registry["tasks"], None if statistics is None else statistics.numpy())
        store._resolver = Resolver(store.tasks)
        store.evaluations = Evaluations.from_json(registry["evaluations"])
        if "rehearsal" in registry:
            store.replay_buffer.load(tensors, registry["rehearsal"], store.tasks)
        return store

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> "WeightStore":
        """Read a file that `save` wrote."""
        return cls.from_bytes(Path(path).read_bytes(), device=device)

    def adopt(self, other: "WeightStore", *, since: int = 0) -> None:
        """Take over the whole state of another store of the same configuration and secret.

        Evaluations of the weights before the record `since` are kept: those weights are the other's past too.
        """
        other.evaluations.take_over(self.evaluations, other.tasks, since)
        optimizers.load_state(self.network, self.optimizer, other.state())
        self.sequence, self.tasks, self.evaluations = other.sequence, other.tasks, other.evaluations
        self.replay_buffer = other.replay_buffer
        self._resolver = Resolver(self.tasks)
