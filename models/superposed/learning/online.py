"""One online step: test, then train; guarded, deterministic, whole or not at all."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.analysis.crosstalk import measure
from superposed.contexts import Stream
from superposed.errors import ConfigError, NonFiniteInput, NonFiniteUpdate, UpdateError, UpdateTooLarge
from superposed.store.evaluations import Evaluation
from superposed.store.losses import Measured, _Forward, row_losses
from superposed.store.replay_buffer import Drawn
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch, ResolvedContext, fill_padding, merge
from superposed.tasks.calibration import row_hashes
from superposed.tasks.scaling import scaled_each
from superposed.tasks.targets import (
    Target,
    Targets,
    in_network_units,
    in_user_units,
    join_targets,
    read_targets,
    scaled_targets,
)

# The version of the arithmetic: raised by every change after which the same updates make other bits.
# 2: contexts are copied out of their slots, in the order of the batch (rotations, convolutions).
# 3: running statistics scale rows and targets; kept rows are scaled when they are drawn; calibration.
# 4: a member of a group starts from what its other members have learned.
# 5, 6: fused kernels compute perceptrons' gradients and scale rows; optimizers are in their fused forms.
APPLY_VERSION = 6
# Updates of a task between two measurements of its crosstalk, from its first one.
CROSSTALK_INTERVAL = 64
# The outcome of a step's batch before it, and the kept rows beside it with their logits.
_Step: TypeAlias = tuple[_Forward, tuple[Drawn, Tensor] | None]
_NOT_FINITE = "the update has no finite loss and gradient"


@dataclass(frozen=True)
class UpdateResult(Measured):
    """Measurement of a task by an update, before it learned; `sequence` is its place in the order of changes."""

    sequence: int


def learn(
    store: WeightStore, context: object, inputs: object, targets: Sequence[Target], *, steps: int | None = None
) -> UpdateResult:
    """Teach one context a batch of rows: the store's one way to learn.

    Args:
        store: What learns; changed in place.
        context: A context expression, its text, or its JSON form.
        inputs: (B, task inputs).
        targets: B labels, class indexes, or numbers.
        steps: Optimizer steps on this batch, applied whole or not at all; default: the configuration's.

    Returns:
        Loss and accuracy before the first step, and the sequence number.

    Raises:
        ContextError: A context that cannot be addressed.
        InputError: Rows or targets that cannot be used.
        UpdateError: The update was refused; every bit of the store is as it was.
    """
    batch = store.batch(context, inputs, learning=True)
    steps = store.config.optimizer.steps if steps is None else steps
    return apply(store, batch, read_targets(batch, targets, store.config.network.outputs), steps=steps)


def evaluate(store: WeightStore, context: object, inputs: object, targets: Sequence[Target]) -> Measured:
    """Measure loss and accuracy on rows of one context; nothing is learned. Arguments as `learn`."""
    batch = store.batch(context, inputs)
    return measure_batch(store, batch, read_targets(batch, targets, store.config.network.outputs))


def measure_batch(store: WeightStore, batch: Batch, targets: Targets) -> Measured:
    """Evaluate a batch that is already prepared; remember a single task's accuracy for `capacity`."""
    with torch.inference_mode():
        measured = answer_losses(store, batch, targets).measured()
    if not math.isfinite(measured.loss):
        raise NonFiniteInput("the loss is not finite: inputs or targets are too large", received=measured.loss)
    if len(batch.parts) == 1 and batch.parts[0].is_single and measured.accuracy is not None:
        found = Evaluation(store.tasks_taught(), store.sequence, measured.rows, measured.accuracy)
        store.evaluations.remember(batch.parts[0].task.schema.key, found)
    return measured


def apply(store: WeightStore, batch: Batch, targets: Targets, *, steps: int = 1) -> UpdateResult:
    """Apply one update to the store: the same path for a new update and for a replayed one.

    Raise `UpdateError` where the update was refused, and every bit of the store is as it was; `ConfigError` for fewer
    than one step.
    """
    if steps < 1:
        raise ConfigError("an update has at least one step", expected="1 or more", received=steps)
    # A single step is checked before it moves anything; only later steps can fail half-way.
    with _statistics_restored(batch), atomic(store) if steps > 1 else nullcontext():
        batch = _absorb(store, batch, targets)
        aims = scaled_targets(batch, targets)
        shown = _untaught(store, batch, targets)
        new, kept = _rehearsing_step(store, batch, aims, 0)
        before = shown or new
        for step in range(1, steps):
            new, kept = _rehearsing_step(store, batch, aims, step)
    store.sequence += 1
    _count(store, batch, before, targets)
    if store.config.rehearsal.logit_share:
        targets = replace(targets, logits=in_user_units(batch, new.logits.detach().cpu()))
        if kept is not None:
            store.replay_buffer.refresh(kept[0], in_user_units(kept[0].batch, kept[1]))
    store.replay_buffer.keep(batch, targets, store.sequence)
    return UpdateResult(sequence=store.sequence, **vars(before.measured()))


def _untaught(store: WeightStore, batch: Batch, targets: Targets) -> _Forward | None:
    """Return how a batch is answered before the first update of one of its tasks; None where all had some."""
    if all(part.task.knows for part in batch.parts):
        return None
    with torch.inference_mode():
        return answer_losses(store, batch, targets, lambda rows: _logits(store, rows).cpu())


@contextmanager
def _statistics_restored(batch: Batch) -> Iterator[None]:
    """Put the statistics and features of a batch's tasks back where an update fails."""
    states = {id(one): one for part in batch.parts for one in (part.scaler, part.units) if one is not None}
    names = ("statistics", "target_statistics", "features")
    before = [(state, {name: getattr(state, name).copy() for name in names}) for state in states.values()]
    try:
        yield
    except Exception:
        for state, learned in before:
            vars(state).update(learned)
        raise


def _absorb(store: WeightStore, batch: Batch, targets: Targets) -> Batch:
    """Move the running statistics of a batch's tasks by its rows and targets, and scale the rows anew.

    Raise `InputError` where a record does not fit the features of its task.
    """
    for part, mine in batch.members():
        if part.units is not None and targets.values is not None:
            own = targets.values.double().numpy()[mine, : part.task.schema.outputs]
            part.units.target_statistics.absorb(own)
    if batch.raw is None:
        return batch
    encoded = np.zeros((len(batch), store.config.network.inputs))
    for (part, mine), rows in zip(batch.members(), batch.raw, strict=True):
        values = _absorb_rows(part, rows)
        encoded[mine, : values.shape[1]] = values
    rows = scaled_each([part.scaling for part in batch.parts], batch.places().numpy(), encoded)
    hashes, inputs = row_hashes(encoded), torch.from_numpy(rows).to(store.dtype)
    if not store.replay_buffer.enabled:
        return replace(batch, inputs=inputs, hashes=hashes)
    for part, mine in batch.members():  # of a row to keep a missing number is the mean, and an outlier is cut off
        if part.scaler is not None and (scaling := part.scaling) is not None:
            encoded[mine] = scaling.bounded(encoded[mine])
    return replace(batch, inputs=inputs, encoded=torch.from_numpy(encoded), hashes=hashes)


def _absorb_rows(part: ResolvedContext, rows: Any) -> NDArray[np.float64]:
    """Move the features and running statistics of a task by its rows; return the rows encoded."""
    records = part.task.schema.kind == "records"
    if records:
        part.features.learn(rows, part.task.schema.inputs)
    values = part.encode(rows)
    if part.scaler is not None:
        part.scaler.statistics.absorb(values[:, : part.features.numbers] if records else values)
    return values


def _records(batch: Batch) -> Iterator[tuple[ResolvedContext, Any]]:
    """Yield a batch's contexts whose rows are records, and those."""
    for part, rows in zip(batch.parts, batch.raw or (), strict=False):
        if part.task.schema.kind == "records":
            yield part, rows


def learn_features(batch: Batch) -> None:
    """Learn the features of a batch's records, and nothing else."""
    for part, rows in _records(batch):
        part.features.learn(rows, part.task.schema.inputs)


def check_records_fit(batch: Batch) -> None:
    """Check that the features of a batch's tasks can take its records, before that is recorded.

    Raise `InputError` where they cannot, as they are now: an update before this one may still change them.
    """
    for part, rows in _records(batch):
        schema, trial = part.task.schema, part.features.copy()
        trial.learn(rows, schema.inputs)
        trial.encode(rows, schema.inputs, ignore_extra=schema.extra_features == "ignore")


def _rehearsing_step(store: WeightStore, batch: Batch, targets: Targets, step: int) -> _Step:
    """Take one step on the batch and on kept rows of all tasks; raise `UpdateError` where the batch itself fails."""
    drawn = store.draw_beside(batch, _rows_to_rehearse(store, len(batch), step), step=step)
    # A kept row with a bad gradient must not have every update rejected: then the step goes without.
    with suppress(UpdateError):
        if drawn is not None:
            return _step_together(store, batch, targets, drawn)
    outcome = _forward(store, batch, targets)
    _check_reported(outcome)
    optimizer_step(store, outcome.losses.mean())
    return outcome, None


def _check_reported(outcome: _Forward) -> None:
    """Raise `NonFiniteUpdate` where a loss in the user's units is not finite: it could not be counted."""
    if not bool(torch.isfinite(outcome.reported).all()):
        raise NonFiniteUpdate(_NOT_FINITE, expected="finite numbers")


def _step_together(store: WeightStore, batch: Batch, targets: Targets, drawn: Drawn) -> _Step:
    """Take one step on a batch and on kept rows, those of its own tasks counted as rows of the batch."""
    rows, own = len(batch), drawn.own
    together, aims = merge([batch, drawn.batch]), join_targets([targets, drawn.targets])
    both = _forward(store, together, aims)
    new, kept = both.part(slice(None, rows)), both.part(slice(rows, None))
    _check_reported(new)
    loss = torch.cat([new.losses, kept.losses[:own]]).mean()
    if own < len(drawn.batch):
        loss = loss + _kept_losses(store, kept, drawn.batch, drawn.targets)[own:].mean()
    optimizer_step(store, loss)
    return new, (drawn, kept.logits.detach().cpu())


def _rows_to_rehearse(store: WeightStore, rows: int, step: int) -> tuple[int, int]:
    """Return the numbers of kept rows of the own and of other tasks to learn beside `rows` new ones."""
    config = store.config.rehearsal
    counts = []
    for name, ratio in (("own ratio", config.own_ratio), ("ratio", config.ratio)):
        wanted = ratio * rows
        count = math.floor(wanted)
        if wanted > count:  # on average a fraction
            names = (name, str(store.sequence + 1), str(step))
            count += int(Stream(store.secret, names).uniforms(1)[0] < wanted - count)
        counts.append(max(count, config.least_rows) if ratio else 0)
    return counts[0], counts[1]


@contextmanager
def atomic(store: WeightStore) -> Iterator[None]:
    """Make several steps atomic: where one fails, the weights are as they were."""
    backup, state = {name: tensor.clone() for name, tensor in store.state().items()}, store.optimizer.state
    before = set(state)
    try:
        yield
    except Exception:
        for parameter in set(state) - before:  # the optimizer had taken no step with it
            del state[parameter]
        with torch.no_grad():
            for name, tensor in store.state().items():
                tensor.copy_(backup[name])
        raise


def answer_losses(
    store: WeightStore, batch: Batch, targets: Targets, network: Callable[[Batch], Tensor] | None = None
) -> _Forward:
    """Return the losses of a batch as users see it answered now; see `WeightStore.answers`."""
    aims, answers = scaled_targets(batch, targets), store.answers(batch, network)
    return row_losses(in_network_units(batch, answers), batch.outputs(), aims)


def _logits(store: WeightStore, batch: Batch) -> Tensor:
    """Return logits (B, store outputs) that follow from the batch and the weights alone, on the store's device."""
    logits: Tensor = store.network(batch.inputs.to(store.device), store.bindings(batch))
    return logits


def _forward(store: WeightStore, batch: Batch, targets: Targets) -> _Forward:
    return row_losses(_logits(store, batch), batch.outputs().to(store.device), targets)


def measure_losses(store: WeightStore, batch: Batch, targets: Targets) -> Tensor:
    """Return each kept row's own loss under the weights as they are, (B,), ready to descend."""
    return _kept_losses(store, _forward(store, batch, targets), batch, targets)


def _kept_losses(store: WeightStore, outcome: _Forward, batch: Batch, targets: Targets) -> Tensor:
    """Return losses of kept rows, (B,): where logits were kept, the distance from them is a share of each.

    Source: DER++ (Buzzega et al., NeurIPS 2020), with the mean over a task's own outputs.
    """
    if targets.logits is None:
        return outcome.losses
    share, outputs = store.config.rehearsal.logit_share, batch.outputs()
    if targets.logit_widths is not None:  # an output that was added since had no answer then
        outputs = torch.minimum(outputs, targets.logit_widths)
    outputs = outputs.to(store.device)
    difference = outcome.logits - targets.logits.to(store.device)
    distance = fill_padding(difference, outputs, 0.0).square().sum(1) / outputs
    return (1.0 - share) * outcome.losses + share * distance


def optimizer_step(store: WeightStore, loss: Tensor) -> None:
    """Take a step down a loss; raise `UpdateError`, and move nothing, for loss or gradient not finite or too large."""
    try:
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        gradients = [one.grad for group in store.optimizer.param_groups for one in group["params"]]
        norms = [torch.linalg.vector_norm(one) for one in gradients if one is not None]
        norm, cap = float(torch.linalg.vector_norm(torch.stack(norms))), store.config.gradient_norm_cap
        if not (math.isfinite(float(loss.detach())) and math.isfinite(norm)):
            raise NonFiniteUpdate(_NOT_FINITE, expected="finite numbers", received=f"gradient norm {norm}")
        if norm > cap:
            problem = "the update's gradient is too long: scale the inputs or targets, or check the rows"
            raise UpdateTooLarge(problem, expected=f"a norm of {cap:g} at most", received=f"{norm:g}")
        store.optimizer.step()
    finally:
        store.optimizer.zero_grad()


def _count(store: WeightStore, batch: Batch, before: _Forward, targets: Targets) -> None:
    """Add the rows to the counters of the tasks that they belong to (a composition: its heaviest part)."""
    losses, correct = before.reported.double().cpu().numpy(), before.correct.cpu().numpy()
    logits, classes = before.logits.detach().cpu().numpy(), targets.classes.numpy()
    hashes = row_hashes(batch.inputs.numpy()) if batch.hashes is None else batch.hashes
    touched = {id(part.task): part.task for part in batch.parts}
    for part, mine in batch.members():
        seen, outputs = part.task.prequential, part.task.schema.outputs
        seen.rows += len(losses[mine])
        seen.loss_sum += float(losses[mine].sum())
        seen.correct += int(correct[mine].sum())
        if part.task.schema.loss == "cross_entropy":
            own = logits[mine, :outputs].astype(np.float64)
            part.task.calibration.learn(own, classes[mine], hashes[mine])
    for task in touched.values():
        task.updates += 1
        task.last_sequence = store.sequence
    if len(batch.parts) == 1 and batch.parts[0].is_single and task.updates % CROSSTALK_INTERVAL == 1:
        task.crosstalk = measure(store, batch) or task.crosstalk
