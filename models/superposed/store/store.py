"""The weight store: one set of weights, its optimizer's state, its sequence, and its tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superposed.config import StoreConfig, validated
from superposed.contexts import (
    DERIVATION_VERSION,
    Binding,
    ContextSource,
    ContextTable,
    Stream,
    family_named,
    new_secret,
)
from superposed.errors import ConfigError, ShapeError
from superposed.nn import build, optimizers
from superposed.store import tensorfile
from superposed.store.evaluations import Evaluations
from superposed.store.holdout import Split
from superposed.store.inference import InferenceRunner
from superposed.store.replay_buffer import ReplayBuffer
from superposed.tasks.batch import Batch, ResolvedContext, one_context, one_context_each, per_row
from superposed.tasks.registry import TaskRegistry, TaskState
from superposed.tasks.resolver import Resolver
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["WeightStore"]

FORMAT_VERSION = 1


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
        self.secret = new_secret() if secret is None else secret
        self.device = torch.device(device)
        self.dtype = {"float32": torch.float32, "float64": torch.float64}[self.config.dtype]
        family = family_named(self.config.family)
        seed = int.from_bytes(Stream(self.secret, ("weights",)).bytes(8, "seed"), "little", signed=True)
        network = self.config.network
        self.network = build(network, family, seed, self.dtype, initialized=initialized).to(self.device)
        self.optimizer = optimizers.make_optimizer(self.config.optimizer, self.network.parameters())
        source = ContextSource(family, self.network.bound_features(), self.secret)
        self.contexts = ContextTable(source, self.config.context_table_bytes, self.dtype, self.device)
        self.tasks = TaskRegistry()
        self.sequence = 0
        self.evaluations = Evaluations()
        self._resolver = Resolver(self.tasks)
        self.replay_buffer = ReplayBuffer(
            self.config.rehearsal, network.inputs, network.outputs, self.dtype, self.secret
        )
        self._answerer = InferenceRunner(self.network, self.contexts, self.device)

    # Tasks

    def completed(self, schema: TaskSchema) -> TaskSchema:
        """Return the schema with what it leaves to the store filled in; see `TaskSchema.completed`."""
        return schema.completed(len(self.contexts.source.features))

    def find_same(self, schema: TaskSchema) -> TaskState | None:
        """Return the task that is registered with exactly this schema; None where it could be registered.

        Raises:
            TaskExists: The key is registered with another schema.
            ShapeError: The task has more inputs, outputs or own layers than the store.
            UnknownTask: Its group, or a task of its composition, is not registered.
            CompositionNotSupported: Its group is in a group itself, or a composition; or the family has none.
        """
        network, schema = self.config.network, self.completed(schema)
        schema.check_fits(network.inputs, network.outputs, len(self.contexts.source.features))
        if schema.composition is not None:
            composed = self.resolve(schema.composition)
            composed.task.schema.check_composable(schema)
            self.contexts.bind_all(composed.context)
        return self.tasks.find_same(schema)

    def check_image(self, schema: TaskSchema) -> None:
        """Check that a task's rows are whole images, where the network takes images.

        Narrower rows would be padded at their end, and so fall on other pixels than they came from.

        Raises:
            ShapeError: They are narrower.
        """
        network = self.config.network
        if network.kind == "mlp" or schema.inputs >= network.inputs:
            return
        raise ShapeError(
            f"rows of task {schema.key} are no images of this store's network",
            expected=f"{network.inputs} numbers: {' x '.join(map(str, network.input_shape))}",
            received=schema.inputs,
        )

    def register(
        self, schema: TaskSchema, *, author: str = "", recorded: bool = False
    ) -> tuple[TaskState, bool]:
        """Register a task; costs no weight memory.

        Args:
            schema: The task.
            author: Who registers it; empty where that is not known.
            recorded: Whether it was admitted before, by this release or an earlier one, and is replayed.

        Returns:
            The task, and whether it is new: registering the same schema again changes nothing.
            Raises as `find_same` and `check_image`.
        """
        if not recorded:
            self.check_image(schema)
        if (existing := self.find_same(schema)) is not None:
            return existing, False
        self._resolver.forget()
        state = self.tasks.add(self.completed(schema), author)
        self.sequence += 1
        state.last_sequence = self.sequence
        return state, True

    def delete(self, key: str) -> None:
        """Forget a task. Registered again, its key gets a fresh context: the old model does not come back.

        Raises:
            UnknownTask: There is none.
            TaskInUse: It is the group of other tasks, or they are composed of it.
        """
        self.tasks.remove(key)
        self._resolver.forget()
        self.evaluations.forget(key)
        self.replay_buffer.forget(key)
        self.sequence += 1

    def forget_rows(self, key: str, *, missing_ok: bool = False) -> int:
        """Forget the rows that are kept of a task; what they taught stays. Returns how many there were.

        Args:
            key: The task.
            missing_ok: Whether the task may have been deleted.

        Raises:
            UnknownTask: There is no such task.
        """
        if not missing_ok:
            self.tasks.get(key)
        self.sequence += 1
        return self.replay_buffer.forget(key)

    def draw(
        self,
        rows: int,
        *,
        sequence: int | None = None,
        step: int = 0,
        besides: Batch | None = None,
        share: Split = Split.ALL,
    ) -> tuple[Batch, Targets] | None:
        """Draw kept rows for a change of the store; see `superposed.store.replay_buffer`.

        Args:
            rows: How many, at most.
            sequence: The change's, which the choice is drawn from; default: the next one's.
            step: Of the change.
            besides: A batch beside which the rows are bound; its tasks are not rehearsed, and neither are
                those in quarantine.
            share: Which of the kept rows.

        Returns:
            Rows and targets; None where nothing is kept.
        """
        parts = () if besides is None else besides.parts
        keys = set(self.tasks.quarantined).union(*(part.keys for part in parts))
        room = self.contexts.capacity - len(parts)
        change = self.sequence + 1 if sequence is None else sequence
        return self.replay_buffer.draw(self._resolver, change, step, rows, keys, room, share)

    def tasks_taught(self) -> int:
        """Return the number of registered tasks that have had at least one update."""
        return sum(state.updates > 0 for state in self.tasks.all())

    # From contexts and rows to batches

    def resolve(self, context: object) -> ResolvedContext:
        """Find what a context expression (or its text or JSON form) stands for.

        Raises:
            ExpressionInvalid: It is no expression.
            UnknownTask: A key in it is not registered.
            CompositionNotSupported: Its parts differ in outputs or loss.
        """
        return self._resolver.resolve(context)

    def batch(self, context: object, inputs: object) -> Batch:
        """Return rows that all belong to one context; see `superposed.tasks.batch.one_context`."""
        return one_context(self.resolve(context), inputs, self.config.network.inputs, self.dtype)

    def has_at_hand(self, context: object) -> bool:
        """Return True if a context is resolved and materialised, so that neither costs anything now."""
        known = self._resolver.kept(context)
        return known is not None and self.contexts.holds(known.context)

    def batch_each(self, parts: Sequence[ResolvedContext], inputs: Sequence[object]) -> Batch | None:
        """Join the rows of several requests, each of one context; see `one_context_each`."""
        return one_context_each(parts, inputs, self.config.network.inputs, self.dtype)

    def batch_per_row(self, contexts: Sequence[object], inputs: Sequence[Any]) -> Batch:
        """Return rows that have a context each; see `superposed.tasks.batch.per_row`.

        Raises:
            CapacityExceeded: The contexts name too many tasks in all.
        """
        parts = self._resolver.resolve_each(contexts)
        return per_row(parts, inputs, self.config.network.inputs, self.dtype)

    # Answers

    def bindings(self, batch: Batch) -> Mapping[str, Binding]:
        """Return every layer's binding for a batch, independent of earlier requests.

        Raises:
            CapacityExceeded: More distinct contexts than the table holds.
            CompositionNotSupported: The family has no such composition.
        """
        return self.contexts.gather([part.context for part in batch.parts], batch.index)

    def logits(self, batch: Batch) -> Tensor:
        """Answer a batch without learning: (B, store outputs), on the CPU.

        Each row's answer is its task's first outputs; what stands beyond them means nothing.
        """
        return self._answerer.logits(batch)

    def answer_seconds(self, rows: int) -> float:
        """Return the seconds that a batch of `rows` rows takes now: the least of a few times."""
        return self._answerer.seconds(rows, self.config.network.inputs, self.dtype)

    def prepare(self, precision: torch.dtype | None = None) -> str | None:
        """Prepare inference ahead of the first request; see `InferenceRunner.prepare`."""
        return self._answerer.prepare(self.config.network.inputs, self.dtype, precision)

    # Bytes and state

    @property
    def lineage(self) -> str:
        """The store's identity, 32 hexadecimal digits: the same in every copy, export and restored backup.

        Derived from the secret, of which it tells nothing.
        """
        return Stream(self.secret, ("lineage",)).bytes(16, "identity").hex()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights; the same for one task and for a thousand."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.network.parameters())

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state."""
        tensors = optimizers.optimizer_state(self.network, self.optimizer)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def state(self) -> dict[str, Tensor]:
        """Return weights and optimizer state by name, sharing memory with the store."""
        return optimizers.state(self.network, self.optimizer)

    def digest(self) -> str:
        """Return SHA-256 over weights, optimizer state, kept rows with their tasks, sequence and registry."""
        hasher = hashlib.sha256()
        for name, tensor in sorted((self.state() | self.replay_buffer.state()).items()):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hasher.update(tensor.cpu().contiguous().numpy().tobytes())
        rows = {"rehearsal": self.replay_buffer.to_json()} if self.replay_buffer.enabled else {}
        facts = [self.sequence, self.tasks.to_json() | rows]
        hasher.update(json.dumps(facts, sort_keys=True).encode())
        return hasher.hexdigest()

    def to_bytes(self, *, kept_rows: bool = True) -> bytes:
        """Return the whole store, secret included, as one safetensors file with JSON metadata.

        The registry is JSON in a byte tensor: it grows with the tasks, and a header is bounded.

        Args:
            kept_rows: Whether the rows that are kept for rehearsal go with it.
        """
        metadata = {
            "format": FORMAT_VERSION,
            "derivation_version": DERIVATION_VERSION,
            "secret": self.secret.hex(),
            "config": self.config.model_dump(mode="json"),
            "sequence": self.sequence,
        }
        registry = {"tasks": self.tasks.to_json(), "evaluations": self.evaluations.to_json()}
        tensors = self.state()
        if kept_rows and self.replay_buffer.enabled:
            registry["rehearsal"] = self.replay_buffer.to_json()
            tensors |= self.replay_buffer.state()
        return tensorfile.dump(tensors | {"registry": tensorfile.json_tensor(registry)}, metadata)

    def save(self, path: str | Path) -> None:
        """Write the store durably to a file that only its owner may read, whole or not at all."""
        tensorfile.write(path, self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, *, device: str | torch.device = "cpu") -> WeightStore:
        """Read what `to_bytes` gave.

        Raises:
            ConfigError: Not a store, or one of a format or derivation that this release cannot read.
        """
        tensors, metadata = tensorfile.parse(data)
        for name, supported in (("format", FORMAT_VERSION), ("derivation_version", DERIVATION_VERSION)):
            if metadata.get(name) != supported:
                raise ConfigError(
                    f"a store of another {name}", expected=supported, received=metadata.get(name)
                )
        store = cls(
            validated(StoreConfig, metadata["config"]),
            secret=bytes.fromhex(metadata["secret"]),
            device=device,
            initialized=False,
        )
        optimizers.load_state(store.network, store.optimizer, tensors)
        store.sequence = metadata["sequence"]
        registry = tensorfile.read_json_tensor(tensors["registry"])
        store.tasks = TaskRegistry.from_json(registry["tasks"])
        store._resolver = Resolver(store.tasks)
        store.evaluations = Evaluations.from_json(registry["evaluations"])
        if "rehearsal" in registry:
            store.replay_buffer.load(tensors, registry["rehearsal"])
        return store

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> WeightStore:
        """Read a file that `save` wrote."""
        return cls.from_bytes(Path(path).read_bytes(), device=device)

    def adopt(self, other: WeightStore) -> None:
        """Take over the whole state of another store of the same configuration and secret."""
        optimizers.load_state(self.network, self.optimizer, other.state())
        self.sequence, self.tasks, self.evaluations = other.sequence, other.tasks, other.evaluations
        self.replay_buffer = other.replay_buffer
        self._resolver = Resolver(self.tasks)
