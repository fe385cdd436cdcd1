"""Rehearsal: rows kept of every task, and batches drawn from them while others learn.

What is kept and what is drawn follow from the store's secret, its sequence number and the rows kept so far,
so that replaying the same records keeps and draws the same rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superposed.config import RehearsalConfig
from superposed.contexts import Stream, flatten, parse
from superposed.store.holdout import Split
from superposed.store.reservoir import PLACE_BYTES, ReservoirAllocator
from superposed.tasks.batch import Batch, ResolvedContext, padding_mask
from superposed.tasks.resolver import Resolver
from superposed.tasks.targets import Targets

__all__ = ["RULES_VERSION", "ReplayBuffer"]

# The rules by which rows are kept and drawn: by others, the same records make another store.
RULES_VERSION = 3

# A row is kept in 8 bits a number, between its smallest and its largest.
_LEVELS = 255
# A row with larger numbers is not kept: its range, or what is read back, might not be finite in float32.
_LARGEST = torch.finfo(torch.float32).max / 4


class ReplayBuffer:
    """Kept rows: a uniform sample of each task's stream, bounded in rows a task and in bytes for all.

    When the bytes are used up, a task that has more rows than another gives one up for it. Rows carry the
    context that they were learned under, compositions too; they belong to the task that gives them a face.
    One range serves all features of a row, so they should be of like size: that is what a task's offset and
    scale are for.

    Args:
        config: How many rows, and bytes, are kept.
        inputs: The store's number of inputs.
        outputs: The store's number of outputs.
        dtype: Of the store.
        secret: The store's, which the choices are drawn from.
    """

    def __init__(
        self, config: RehearsalConfig, inputs: int, outputs: int, dtype: torch.dtype, secret: bytes
    ) -> None:
        self._config = config
        self._secret = secret
        self._outputs = outputs
        self._dtype = dtype
        self._rows: dict[str, Tensor] = {
            "inputs": torch.empty(0, inputs, dtype=torch.uint8),
            "low": torch.empty(0, dtype=dtype),  # as exact as the rows: it may be far larger than their range
            "step": torch.empty(0),
            "width": torch.empty(0, dtype=torch.int32),  # features of the row's task: beyond them is 0
            "classes": torch.empty(0, dtype=torch.int32),  # -1 in rows of mse tasks
            "context": torch.empty(0, dtype=torch.int32),  # place in `_names`
            "values": torch.empty(0, outputs),  # as long as the others once there is an mse row
        }
        if config.logit_share:
            self._rows["logits"] = torch.empty(0, outputs)
        bytes_per_row = sum(rows.element_size() * rows[:1].numel() for rows in self._empty_row().values())
        self._capacity = config.max_bytes // (bytes_per_row + PLACE_BYTES)
        self._pools = ReservoirAllocator(config.rows_per_task, self._capacity)
        self._names: list[str] = []

    def _empty_row(self) -> dict[str, Tensor]:
        return {name: rows.new_zeros(1, *rows.shape[1:]) for name, rows in self._rows.items()}

    @property
    def enabled(self) -> bool:
        """True if rows are kept at all."""
        return self._config.rows_per_task > 0 and self._capacity > 0

    @property
    def bytes(self) -> int:
        """Bytes of the kept rows."""
        numbers = sum(rows.element_size() * rows.numel() for rows in self._rows.values())
        return numbers + PLACE_BYTES * self._pools.used

    def rows_kept(self, key: str) -> int:
        """Return the number of rows kept of a task."""
        return self._pools.kept(key)

    # Keeping

    def keep(self, batch: Batch, targets: Targets, sequence: int) -> None:
        """Keep some rows of a batch that was just learned, in the place of others where there is no room.

        Args:
            batch: The rows.
            targets: Their targets, with what they were answered where logits are kept.
            sequence: The update's, which the choice is drawn from.
        """
        if not self.enabled:
            return
        chance = Stream(self._secret, ("reservoir", str(sequence))).uniforms(2 * len(batch)).reshape(2, -1)
        chosen: dict[int, int] = {}  # place -> row, the last row that took it
        keepable = _keepable(batch, targets).tolist()
        for row, place in enumerate(batch.places().tolist()):
            part = batch.parts[place]
            if not (part.keep_rows and keepable[row]):
                continue
            slot = self._pools.place_for(part.task.schema.key, *chance[:, row].tolist())
            if slot is not None:
                chosen[slot] = row
        self._write(batch, targets, chosen)

    def _write(self, batch: Batch, targets: Targets, chosen: Mapping[int, int]) -> None:
        if not chosen:
            return
        self._grow()
        slots, rows = (torch.tensor(list(numbers)) for numbers in (chosen.keys(), chosen.values()))
        places = batch.places()[rows]
        widths = torch.tensor([part.task.schema.inputs for part in batch.parts], dtype=torch.int32)[places]
        values: dict[str, Tensor] = {
            **_in_levels(batch.inputs[rows], widths),
            "width": widths,
            "classes": targets.classes[rows].int(),
            "context": self._name_ids(batch.parts)[places],
        }
        if targets.values is not None:
            self._grow_values()
        if len(self._rows["values"]):
            values["values"] = torch.zeros(len(rows), self._outputs)
            if targets.values is not None:
                values["values"] = targets.values[rows].float()
        if targets.logits is not None:
            values["logits"] = targets.logits[rows].float()
        for name, kept in values.items():
            self._rows[name][slots] = kept

    def _name_ids(self, parts: Sequence[ResolvedContext]) -> Tensor:
        self._compact_names()
        known = {name: place for place, name in enumerate(self._names)}
        for part in parts:
            known.setdefault(part.text, len(known))
        self._names = list(known)
        return torch.tensor([known[part.text] for part in parts], dtype=torch.int32)

    def _compact_names(self) -> None:
        """Forget contexts that no row was learned under any more, once they are most of them."""
        if len(self._names) <= 1024 + 2 * self._pools.used:
            return
        kept, places = np.unique(self._rows["context"][: self._pools.used].numpy(), return_inverse=True)
        self._names = [self._names[place] for place in kept]
        self._rows["context"][: self._pools.used] = torch.from_numpy(places).int()

    def _grow(self) -> None:
        room = len(self._rows["low"])
        if self._pools.used > room:
            wanted = min(self._capacity, max(self._pools.used, 2 * room))
            for name, rows in self._rows.items():
                if name != "values" or len(rows):
                    self._rows[name] = _longer(rows, wanted)

    def _grow_values(self) -> None:
        if not len(self._rows["values"]):
            self._rows["values"] = _longer(self._rows["values"], len(self._rows["low"]))

    # Drawing

    def draw(
        self,
        resolver: Resolver,
        sequence: int,
        step: int,
        rows: int,
        besides: Collection[str],
        contexts: int,
        share: Split = Split.ALL,
    ) -> tuple[Batch, Targets] | None:
        """Draw a rehearsal batch: each row's task at random, and one of its rows.

        Args:
            resolver: Finds the rows' contexts.
            sequence: The update's, which the choice is drawn from.
            step: The update's step.
            rows: B, at most.
            besides: Tasks that are not rehearsed now.
            contexts: How many distinct contexts there may be at most; rows of those drawn later are left out.
            share: Which of the kept rows.

        Returns:
            Rows and targets; None where no such rows were found of any other task.
        """
        pools = self._pools.of_others(besides)
        if not pools or rows < 1 or contexts < 1:
            return None
        tries = rows if share is Split.ALL else round(2 * rows / share.chance)
        chance = Stream(self._secret, ("rehearsal", str(sequence), str(step))).uniforms(2 * tries)
        tasks = (chance[:tries] * len(pools)).astype(np.int64).tolist()
        chosen = [
            pools[task][int(place * len(pools[task]))]
            for task, place in zip(tasks, chance[tries:].tolist(), strict=True)
        ]
        found = self._of_share(chosen, share, rows)
        if not found:
            return None
        slots = self._of_few_contexts(torch.tensor(found), contexts)
        known, index = np.unique(self._rows["context"][slots].numpy(), return_inverse=True)
        parts = tuple(resolver.resolve(self._names[place]) for place in known)
        return self._read(slots, parts, torch.from_numpy(index))

    def _of_share(self, slots: Sequence[int], share: Split, rows: int) -> list[int]:
        """Return the first `rows` slots that belong to a split; wide rows are read one by one."""
        if share is Split.ALL:
            return list(slots[:rows])
        parts = [self._rows[name].numpy() for name in ("inputs", "low", "step")]
        found = (slot for slot in slots if share.has(b"".join(part[slot].tobytes() for part in parts)))
        return list(islice(found, rows))

    def _of_few_contexts(self, slots: Tensor, contexts: int) -> Tensor:
        """Return the drawn rows of the contexts that were drawn first."""
        ids = self._rows["context"][slots].numpy()
        first = np.sort(np.unique(ids, return_index=True)[1])[:contexts]
        return slots[torch.from_numpy(np.isin(ids, ids[first]))]

    def _read(
        self, slots: Tensor, parts: tuple[ResolvedContext, ...], index: Tensor
    ) -> tuple[Batch, Targets]:
        low, step = (self._rows[name][slots].to(self._dtype) for name in ("low", "step"))
        inputs = self._rows["inputs"][slots].to(self._dtype)  # (B, inputs)
        inputs = inputs.mul_(step[:, None]).add_(low[:, None])
        inputs = inputs.masked_fill_(padding_mask(inputs, self._rows["width"][slots]), 0.0)
        batch = Batch(parts, index if len(parts) > 1 else None, inputs)
        classes = self._rows["classes"][slots].long()
        values = None
        if bool((classes < 0).any()):
            values = self._rows["values"][slots].to(self._dtype)
        logits = self._rows["logits"][slots].to(self._dtype) if "logits" in self._rows else None
        return batch, Targets(classes, values, logits)

    # Forgetting and saving

    def names(self, key: str) -> bool:
        """Return True if any kept row belongs to a task, or to a composition with it."""
        naming, context = self._naming(key), self._rows["context"].tolist()
        placed = (place for places in self._pools.of_others(()) for place in places)
        return bool(self.rows_kept(key)) or any(context[place] in naming for place in placed)

    def _naming(self, key: str) -> set[int]:
        """Return the places in `_names` of contexts that a task is a part of."""
        return {
            place
            for place, name in enumerate(self._names)
            if any(leaf.key == key for leaf in flatten(parse(name)))
        }

    def forget(self, key: str) -> int:
        """Forget all rows of a task, also those learned under compositions with it; returns how many."""
        naming, context = self._naming(key), self._rows["context"].tolist()
        gone = self._pools.forget(key, lambda place: context[place] in naming)
        for rows in self._rows.values():
            if len(rows):
                rows[torch.tensor(gone, dtype=torch.int64)] = 0  # the numbers themselves are gone
        return len(gone)

    def state(self) -> dict[str, Tensor]:
        """Return the kept rows by name, sharing memory."""
        used = self._pools.used
        return {f"rehearsal.{name}": rows[:used] for name, rows in self._rows.items() if len(rows)}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON values that complete `state`."""
        return {"names": self._names, **self._pools.to_json()}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore what `state` and `to_json` returned."""
        self._names = list(values["names"])
        self._pools.load(values)
        for name in self._rows:
            if (saved := tensors.get(f"rehearsal.{name}")) is not None:
                self._rows[name] = saved.to(self._rows[name].dtype, copy=True)


def _keepable(batch: Batch, targets: Targets) -> Tensor:
    """Return (B,) bool: True if a row's numbers, targets and squared logits fit in float32."""
    several = ((batch.inputs, _LARGEST), (targets.values, _LARGEST), (targets.logits, _LARGEST**0.5))
    small = [numbers.abs().amax(1) <= most for numbers, most in several if numbers is not None]
    return torch.stack(small).all(0)


def _in_levels(inputs: Tensor, widths: Tensor) -> dict[str, Tensor]:
    """Return rows (B, inputs) in 8 bits a number; the range is that of the task's own features (B,)."""
    padding = padding_mask(inputs, widths)
    low = inputs.masked_fill(padding, float("inf")).amin(1)  # (B,)
    high = inputs.masked_fill(padding, float("-inf")).amax(1)  # (B,)
    step = (high / _LEVELS - low / _LEVELS).float()  # not (high - low): that may be infinite
    level = (inputs - low[:, None]) / torch.where(step > 0, step, torch.ones_like(step))[:, None]
    level = level.round().clamp(0, _LEVELS).masked_fill(padding, 0.0)
    return {"inputs": level.to(torch.uint8), "low": low, "step": step}


def _longer(rows: Tensor, length: int) -> Tensor:
    longer = rows.new_zeros(length, *rows.shape[1:])
    longer[: len(rows)] = rows
    return longer
