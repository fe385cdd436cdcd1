"""Rehearsal: rows kept of every task, and batches drawn from them while others learn.

What is kept and what is drawn follow from the store's secret, its sequence number and the rows kept so far,
so that replaying the same records keeps and draws the same rows.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.config import RehearsalConfig
from superposed.contexts import Stream, flatten, parse
from superposed.store.reservoir import PLACE_BYTES, ReservoirAllocator
from superposed.tasks import row_kernels
from superposed.tasks.batch import Batch, ResolvedContext
from superposed.tasks.registry import TaskRegistry
from superposed.tasks.resolver import Resolver
from superposed.tasks.scaling import scaled_each
from superposed.tasks.targets import Targets, in_network_units, scaled_targets

# The rules by which rows are kept and drawn: by others, the same records make another store.
# 4: rows are kept before scaling, in 8 bits a number between the smallest and largest of a task's feature.
# 5: an update also learns earlier rows of its own tasks again, and their kept logits follow.
RULES_VERSION = 5

_LEVELS = 255
# Once that many rows of a task are kept, one that lies farther outside their range than this many times its
# length is not: it would leave too few levels for the others.
_SETTLED, _REACH = 32, 16.0
# A row with larger numbers is not kept: its range, or what is read back, might not be finite in float32.
_LARGEST = torch.finfo(torch.float32).max / 4


class Split(Enum):
    """Split of kept rows: all of them, or one of two parts that have no row in common.

    What a row is decides: sent again it is in the same part. A value is the chance of a row to belong to it.
    """

    ALL = 1.0
    LEARNED = 7 / 8
    HELD_OUT = 1 / 8


@dataclass(frozen=True)
class Drawn:
    """Kept rows to learn beside an update.

    Args:
        batch: The rows, scaled as their tasks scale rows now.
        targets: Their targets and kept logits.
        own: Number of first rows that belong to the update's own tasks.
        slots: (B,) int64, the slot of each row.
    """

    batch: Batch
    targets: Targets
    own: int
    slots: Tensor


class ReplayBuffer:
    """Kept rows: a uniform sample of each task's stream, bounded in rows a task and in bytes for all.

    When the bytes are used up, a task that has more rows than another gives one up for it. Rows carry the
    context that they were learned under, compositions too; they belong to the task that gives them a face.
    They are kept as they came, before scaling, so that they follow the statistics of their task. The choices are
    drawn from the store's secret.
    """

    def __init__(self, config: RehearsalConfig, inputs: int, outputs: int, dtype: torch.dtype, secret: bytes) -> None:
        self._config, self._secret = config, secret
        self._inputs, self._outputs, self._dtype = inputs, outputs, dtype
        self._rows: dict[str, Tensor] = {
            "inputs": torch.empty(0, inputs, dtype=torch.uint8),
            "split": torch.empty(0, dtype=torch.uint8),  # which split the row belongs to, for good
            "outputs": torch.empty(0, dtype=torch.int32),  # of the row's task when the row was kept
            "weight": torch.empty(0),
            "classes": torch.empty(0, dtype=torch.int32),  # -1 in rows of mse tasks
            "context": torch.empty(0, dtype=torch.int32),  # number in `_names`
            "values": torch.empty(0, outputs, dtype=torch.float64),  # as long as others once there is one
        }
        if config.logit_share:
            self._rows["logits"] = torch.empty(0, outputs)  # in mse rows less the values
        bytes_per_row = sum(rows.element_size() * math.prod(rows.shape[1:]) for rows in self._rows.values())
        self._capacity = config.max_bytes // (bytes_per_row + PLACE_BYTES)
        self._pools = ReservoirAllocator(config.rows_per_task, self._capacity)
        self._names: dict[str, int] = {}  # numbers of contexts, by their text
        self._ranges: dict[str, NDArray[np.float64]] = {}  # (2, inputs): smallest and largest kept numbers
        self._owners = np.zeros(0, dtype=np.int64)  # each slot's task, by its place in `_ranges`
        self.derived: OrderedDict[str, tuple[object, Any]] = OrderedDict()  # what others made of a task's rows

    @property
    def enabled(self) -> bool:
        """True if rows are kept at all."""
        return self._config.rows_per_task > 0 and self._capacity > 0

    @property
    def bytes(self) -> int:
        """Bytes of the kept rows."""
        ranges = sum(one.nbytes for one in self._ranges.values())
        return sum(rows.nbytes for rows in self._rows.values()) + ranges + PLACE_BYTES * self._pools.used

    def rows_kept(self, key: str) -> int:
        """Return the number of rows kept of a task."""
        return self._pools.kept(key)

    def rows_of(self, key: str, width: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the kept rows (B, width) of a task as they came, to 8 bits, and their classes (B,)."""
        slots = list(self._pools.of(key))
        classes = self._rows["classes"][slots].numpy().astype(np.int64)
        if not slots:
            return np.zeros((0, width)), classes
        levels = self._rows["inputs"][slots].numpy()
        return _from_levels(levels, self._ranges[key])[:, :width], classes

    # Keeping

    def keep(self, batch: Batch, targets: Targets, sequence: int) -> None:
        """Keep some rows of a batch that was just learned, in the place of others where there is no room.

        Targets are in the user's units, with what the rows were answered where logits are kept. The choice is
        drawn from the update's sequence number.
        """
        if not self.enabled:
            return
        chance = Stream(self._secret, ("reservoir", str(sequence))).uniforms(2 * len(batch)).reshape(2, -1)
        chosen: dict[str, dict[int, int]] = {}  # task -> place -> row, the last row that took it
        encoded = batch.inputs.double() if batch.encoded is None else batch.encoded
        values, places = encoded.numpy(), batch.places().numpy()
        keepable = _keepable(values, targets)
        keepable &= np.asarray([part.keep_rows for part in batch.parts])[places]
        near = self._near(batch, values)
        if len(batch.parts) == 1 and self._pools.is_full(key := batch.parts[0].task.schema.key):
            rows = np.flatnonzero(keepable & (near | (self._pools.kept(key) < _SETTLED)))
            slots = self._pools.places_of_full(key, chance[0, rows])
            taken = slots >= 0
            chosen[key] = dict(zip(slots[taken].tolist(), rows[taken].tolist(), strict=True))
            self._write(batch, values, targets, chosen)
            return
        for row in np.flatnonzero(keepable).tolist():
            key = batch.parts[places[row]].task.schema.key
            if self._pools.kept(key) >= _SETTLED and not near[row]:
                continue
            slot = self._pools.place_for(key, *chance[:, row].tolist())
            if slot is not None:
                for others in chosen.values():  # another task may have given the place up again
                    others.pop(slot, None)
                chosen.setdefault(key, {})[slot] = row
        self._write(batch, values, targets, chosen)

    def _near(self, batch: Batch, rows: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return (B,) bool: False for rows far outside the range of their task's kept rows."""
        near = np.ones(len(rows), dtype=bool)
        for part, mine in batch.members():
            if (known := self._ranges.get(part.task.schema.key)) is not None:
                low, high = known
                reach = np.where(high > low, _REACH * (high - low), np.inf)
                own = rows[mine]
                if not ((own.min(0) >= low - reach) & (own.max(0) <= high + reach)).all():
                    near[mine] = ((own >= low - reach) & (own <= high + reach)).all(1)
        return near

    def _write(
        self, batch: Batch, encoded: NDArray[np.float64], targets: Targets, chosen: Mapping[str, Mapping[int, int]]
    ) -> None:
        placed = {slot: row for places in chosen.values() for slot, row in places.items()}
        if not placed:
            return
        self._grow()
        for key, places in chosen.items():
            if places:
                self._write_numbers(key, list(places), encoded[list(places.values())])
        slots, rows = (torch.tensor(list(numbers)) for numbers in (placed.keys(), placed.values()))
        values: dict[str, Tensor] = {
            "split": torch.from_numpy(_splits_of(encoded[rows.numpy()])),
            "outputs": batch.outputs()[rows].int(),
            "weight": torch.ones(len(rows)) if targets.weights is None else targets.weights[rows].float(),
            "classes": targets.classes[rows].int(),
            "context": self._name_ids(batch.parts)[batch.places()[rows]],
            **self._answers(targets, rows),
        }
        for name, kept in values.items():
            self._rows[name][slots] = kept

    def _answers(self, targets: Targets, rows: Tensor) -> dict[str, Tensor]:
        """Return the values and logits to keep of rows."""
        values = torch.zeros(len(rows), self._outputs, dtype=torch.float64)
        if targets.values is not None:
            values = targets.values[rows].double()
            if not len(self._rows["values"]):
                self._rows["values"] = _longer(self._rows["values"], len(self._rows["split"]))
        found = {"values": values} if len(self._rows["values"]) else {}
        if targets.logits is not None:
            found["logits"] = (targets.logits[rows] - values).float()
        return found

    def _write_numbers(self, key: str, slots: Sequence[int], rows: NDArray[np.float64]) -> None:
        """Write rows (B, inputs) in levels of their task's range, after widening the range where needed."""
        before = self._ranges.get(key)
        low, high = rows.min(0), rows.max(0)
        if before is not None:
            low, high = np.minimum(before[0], low), np.maximum(before[1], high)
        now = self._ranges[key] = np.stack([low, high])
        numbers = self._rows["inputs"].numpy()
        if before is not None and (wider := np.flatnonzero((before != now).any(0))).size:
            others = np.asarray(self._pools.of(key))[:, None]
            kept = _from_levels(numbers[others, wider], before[:, wider])
            numbers[others, wider] = _in_levels(kept, now[:, wider])
        numbers[slots] = _in_levels(rows, now)
        if before is None or len(self._owners) < len(numbers):
            self._find_owners()
        self._owners[slots] = list(self._ranges).index(key)

    def _find_owners(self) -> None:
        """Note which task each slot belongs to."""
        self._owners = np.zeros(len(self._rows["split"]), dtype=np.int64)
        for place, key in enumerate(self._ranges):
            self._owners[list(self._pools.of(key))] = place

    def _name_ids(self, parts: Sequence[ResolvedContext]) -> Tensor:
        if len(self._names) > 1024 + 2 * self._pools.used:  # most are of contexts that no row was learned under
            kept, numbers = np.unique(self._rows["context"][: self._pools.used].numpy(), return_inverse=True)
            names = list(self._names)
            self._names = {names[before]: number for number, before in enumerate(kept)}
            self._rows["context"][: self._pools.used] = torch.from_numpy(numbers).int()
        ids = [self._names.setdefault(part.text, len(self._names)) for part in parts]
        return torch.tensor(ids, dtype=torch.int32)

    def _grow(self) -> None:
        room = len(self._rows["split"])
        if self._pools.used > room:
            wanted = min(self._capacity, max(self._pools.used, 2 * room))
            for name, rows in self._rows.items():
                if name != "values" or len(rows):
                    self._rows[name] = _longer(rows, wanted)

    # Drawing

    def draw(
        self,
        resolver: Resolver,
        sequence: int,
        step: int,
        rows: tuple[int, int],
        besides: Collection[str],
        contexts: int,
        parts: Sequence[ResolvedContext] = (),
        share: Split = Split.ALL,
    ) -> Drawn | None:
        """Draw kept rows of an update's own tasks, and those of a split of other tasks; None if none is found.

        The choice is drawn from the sequence number of an update, and its step. `parts` are the contexts of the update,
        `rows` the most rows of its own tasks and of others. Tasks in `besides` are not rehearsed as others. Of more
        than `contexts` distinct contexts besides the update's, the rows of those drawn later are left out.
        """
        own = self._of_own({part.task.schema.key for part in parts}, sequence, step, rows[0])
        others = self._of_others(besides, sequence, step, rows[1], share)
        found = torch.tensor(own + others, dtype=torch.int64)
        allowed = self._of_few_contexts(found, contexts, [part.text for part in parts])
        if not allowed.any():
            return None
        slots = found[torch.from_numpy(allowed)]
        return Drawn(*self._read(resolver, slots), own=int(allowed[: len(own)].sum()), slots=slots)

    def _of_own(self, keys: Collection[str], sequence: int, step: int, rows: int) -> list[int]:
        """Draw slots of some tasks at random; all of them once where they are few."""
        kept = [slot for key in sorted(keys) for slot in self._pools.of(key)]
        if len(kept) <= rows:
            return kept
        chance = Stream(self._secret, ("own", str(sequence), str(step))).uniforms(rows)
        return [kept[int(place * len(kept))] for place in chance.tolist()]

    def _of_others(self, besides: Collection[str], sequence: int, step: int, rows: int, share: Split) -> list[int]:
        """Draw slots of a split of other tasks: for each a task at random, and one of its rows."""
        pools = self._pools.of_others(besides)
        if not pools or rows < 1:
            return []
        tries = rows if share is Split.ALL else round(2 * rows / share.value)
        chance = Stream(self._secret, ("rehearsal", str(sequence), str(step))).uniforms(2 * tries)
        tasks = (chance[:tries] * len(pools)).astype(np.int64).tolist()
        places = chance[tries:].tolist()
        found = [pools[task][int(place * len(pools[task]))] for task, place in zip(tasks, places, strict=True)]
        if share is not Split.ALL:
            splits = self._rows["split"].numpy()
            found = [slot for slot in found if (splits[slot] == 0) == (share is Split.HELD_OUT)]
        return found[:rows]

    def refresh(self, drawn: Drawn, logits: Tensor) -> None:
        """Keep newer logits of the rows of an update's own tasks: those of when the task is known.

        They are (B, store outputs), of all rows drawn, in the user's units. No row was kept since those were drawn.
        """
        logits = logits[: drawn.own]
        small = (logits.abs().amax(1) <= _LARGEST**0.5).numpy()
        slots = drawn.slots[: drawn.own].numpy()[small]
        numbers = logits.double().numpy()[small]
        if len(self._rows["values"]):
            numbers = numbers - self._rows["values"].numpy()[slots]
        # By numpy: of a row that was drawn twice, the last one is kept.
        self._rows["logits"].numpy()[slots] = numbers
        self._rows["outputs"].numpy()[slots] = drawn.batch.outputs()[: drawn.own].numpy()[small]

    def _of_few_contexts(self, slots: Tensor, contexts: int, free: Sequence[str]) -> NDArray[np.bool_]:
        """Return which drawn rows (B,) are of the contexts that were drawn first, or of free ones."""
        ids = self._rows["context"].numpy()[slots.numpy()]
        distinct, where = np.unique(ids, return_index=True)
        if len(distinct) <= contexts:
            return np.ones(len(ids), dtype=bool)
        first = ids[np.sort(where)]
        known = [self._names[name] for name in free if name in self._names]
        allowed = np.concatenate([known, first[~np.isin(first, known)][: max(contexts, 0)]])
        return np.isin(ids, allowed)

    def _read(self, resolver: Resolver, slots: Tensor) -> tuple[Batch, Targets]:
        found, places = np.unique(self._rows["context"][slots].numpy(), return_inverse=True)
        names = list(self._names)
        parts = tuple(resolver.resolve(names[number]) for number in found)
        index = torch.from_numpy(places)
        numbers = self._rows["inputs"][slots].numpy()
        owners, places = np.unique(self._owners[slots.numpy()], return_inverse=True)
        known = list(self._ranges.values())
        ranges = np.stack([known[owner] for owner in owners], axis=1)  # (2, K, inputs)
        rows = _from_levels(numbers, ranges, places)
        scaled = scaled_each([part.scaling for part in parts], index.numpy(), rows)
        batch = Batch(parts, index if len(parts) > 1 else None, torch.from_numpy(scaled).to(self._dtype))
        classes = self._rows["classes"][slots].long()
        weights = self._rows["weight"][slots].to(self._dtype)
        targets = Targets(classes, None, weights=None if bool((weights == 1.0).all()) else weights)
        if bool((classes < 0).any()):
            targets = scaled_targets(batch, replace(targets, values=self._rows["values"][slots].double()))
            if targets.units is None and targets.values is not None:
                targets = replace(targets, values=targets.values.to(self._dtype))
        if "logits" in self._rows:
            answers = self._rows["logits"][slots].double()
            answers += self._rows["values"][slots] if len(self._rows["values"]) else 0.0
            logits = in_network_units(batch, answers).to(self._dtype)
            targets = replace(targets, logits=logits, logit_widths=self._rows["outputs"][slots].long())
        return batch, targets

    # Forgetting and saving

    def names(self, key: str) -> bool:
        """Return True if any kept row belongs to a task, or to a composition with it."""
        naming, context = self._naming(key), self._rows["context"].tolist()
        placed = (place for places in self._pools.of_others(()) for place in places)
        return bool(self.rows_kept(key)) or any(context[place] in naming for place in placed)

    def _naming(self, key: str) -> set[int]:
        """Return the numbers of contexts that a task is a part of."""
        return {number for name, number in self._names.items() if key in {leaf.key for leaf in flatten(parse(name))}}

    def forget(self, key: str) -> int:
        """Forget all rows of a task, also those learned under compositions with it; returns how many."""
        naming, context = self._naming(key), self._rows["context"].tolist()
        gone = self._pools.forget(key, lambda place: context[place] in naming)
        self.derived.pop(key, None)
        self._ranges = {name: one for name, one in self._ranges.items() if self._pools.kept(name)}
        self._find_owners()
        for rows in self._rows.values():
            if len(rows):
                rows[torch.tensor(gone, dtype=torch.int64)] = 0  # the numbers themselves are gone
        return len(gone)

    def state(self) -> dict[str, Tensor]:
        """Return the kept rows by name, sharing memory."""
        used = self._pools.used
        kept = {f"rehearsal.{name}": rows[:used] for name, rows in self._rows.items() if len(rows)}
        if self._ranges:
            kept["rehearsal.ranges"] = torch.from_numpy(np.stack(list(self._ranges.values())))
        return kept

    def to_json(self) -> dict[str, Any]:
        """Return the JSON values that complete `state`."""
        return {"names": list(self._names), "ranges": list(self._ranges), **self._pools.to_json()}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], tasks: TaskRegistry) -> None:
        """Restore what `state` and `to_json` returned, in this release or an earlier one."""
        self._names = {name: number for number, name in enumerate(values["names"])}
        self._pools.load(values)
        for name in self._rows:
            if (saved := tensors.get(f"rehearsal.{name}")) is not None:
                self._rows[name] = saved.to(self._rows[name].dtype, copy=True)
        if (ranges := tensors.get("rehearsal.ranges")) is not None:
            self._ranges = dict(zip(values["ranges"], ranges.numpy().copy(), strict=True))
            self._find_owners()
        elif "rehearsal.low" in tensors:
            self._load_first_format(tensors, tasks)

    def _load_first_format(self, tensors: Mapping[str, Tensor], tasks: TaskRegistry) -> None:
        """Convert rows of the first release, which kept them scaled, with a range for each row."""
        low, step = (tensors[f"rehearsal.{name}"].double().numpy()[:, None] for name in ("low", "step"))
        widths = tensors["rehearsal.width"].numpy()[:, None]
        levels = tensors["rehearsal.inputs"].numpy()
        scaled = np.where(np.arange(self._inputs) < widths, low + levels * step, 0.0)
        for name in ("split", "outputs", "weight"):
            self._rows[name] = self._rows[name].new_ones(len(scaled))
        for key in self._pools.keys():  # noqa: SIM118 - not a mapping's
            slots, schema = list(self._pools.of(key)), tasks.get(key).schema
            rows = scaled[slots]
            if (scaling := schema.fixed_scaling) is not None:
                rows[:, : schema.inputs] = rows[:, : schema.inputs] * scaling.scale + scaling.offset
            if len(slots):
                self._write_numbers(key, slots, rows)
                self._rows["split"][slots] = torch.from_numpy(_splits_of(rows))
                self._rows["outputs"][slots] = schema.outputs


def _keepable(encoded: NDArray[np.float64], targets: Targets) -> NDArray[np.bool_]:
    """Return (B,) bool: True if a row's numbers, targets and squared logits fit in float32."""
    keepable = np.ones(len(encoded), dtype=bool)
    for numbers, most in ((encoded, _LARGEST), (targets.values, _LARGEST), (targets.logits, _LARGEST**0.5)):
        if numbers is not None:
            keepable &= (np.abs(np.asarray(numbers)) <= most).all(1)
    return keepable


def _splits_of(rows: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return 0 for each row (B, inputs) that is held out, 1 to 7 for others."""
    return np.asarray([crc32(row.tobytes()) % 8 for row in rows.astype(np.float32)], dtype=np.uint8)


def _in_levels(rows: NDArray[np.float64], ranges: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return numbers (B, n) in 8 bits, between the ends (2, n) of their features' ranges."""
    levels = np.empty(rows.shape, dtype=np.uint8)
    row_kernels.to_levels(rows, *ranges, _LEVELS, levels)
    return levels


def _from_levels(
    levels: NDArray[np.uint8], ranges: NDArray[np.float64], places: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return the inverse of `_in_levels`, to rounding; of ranges (2, K, n) with a place (B,) each."""
    if places is None:
        ranges, places = ranges[:, None], np.zeros(len(levels), dtype=np.int64)
    values = np.empty(levels.shape)
    row_kernels.from_levels(levels, places, *ranges, _LEVELS, values)
    return values


def _longer(rows: Tensor, length: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])
