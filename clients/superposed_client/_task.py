"""Handles on a context with scikit-learn's method names: their operations once, and how the clients run them."""

# ruff: noqa: N803 - X, as scikit-learn has it

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from superposed_client._arrays import inputs_of, is_by_name, labels_of, originals_form, plain_rows, targets_of
from superposed_client._calls import Async, Sync, chain, method
from superposed_client._contexts import Context, ContextLike
from superposed_client._core import Operation
from superposed_client._errors import ApiError, LabelOutOfRange, SuperposedError, UnknownTask
from superposed_client._foreign import answers_of, optional, torch_module
from superposed_client._operations import Inputs, Operations, Targets, TaskFields, chunks, register_new
from superposed_client._shown import Listed, plot_accuracies
from superposed_client.models import EvaluatedAccuracy, TaskInfo, Update

T = TypeVar("T")
# Rows as they are sent: an array (B, features), or records.
Rows: TypeAlias = NDArray[Any] | list[dict[str, Any]]
ClassWeight: TypeAlias = Literal["balanced"] | Mapping[Any, float]

_KEY = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_POWER = re.compile(r".+\^-?[0-9.eE+-]+")
_LEAST_MODEL_ROWS = 5
_NAME = re.compile(rf"(?:({_KEY})/)?({_KEY})")  # key, or group/key


class _TaskCalls:
    """A handle on one context, and what is known about it."""

    def __init__(self, run: Callable[[Any], Any], context: ContextLike, fields: TaskFields) -> None:
        if not isinstance(context, str | Context):
            raise TypeError(f"a task key is text, not {type(context).__name__}: client.task({str(context)!r})")
        self._run, self._context, self._fields = run, context, fields
        self._last_update: Update | None = None
        self._grows = fields.pop("grow_labels", False)
        self._has_outputs = fields.get("labels") is not None or fields.get("outputs") is not None
        self._has_schema = self._has_outputs or self._grows  # enough to register a task, with rows and targets at hand
        self._registered = False
        self._by_position: bool | None = None
        text = context if isinstance(context, str) else context.form.get("task")
        found = _NAME.fullmatch(text) if isinstance(text, str) else None
        group = found and found[1]
        self._key: str | None = found and found[2]  # where the context is just a task
        self._name = text if isinstance(text, str) else str(context)
        self._asked = self._key or self._name  # what the server is asked for; it refuses what is no key
        if self._has_schema and self._key is None:
            raise ValueError(self._why_no_key())
        if group is not None:
            if fields.get("group") not in {None, group}:
                raise ValueError(f"{context} is in the group {group}, not in {fields['group']}")
            fields["group"] = group

    @property
    def context(self) -> ContextLike:
        """The context that rows are bound with."""
        return self._context

    @property
    def last_update(self) -> Update | None:
        """Result of the newest update, or None."""
        return self._last_update

    def __repr__(self) -> str:
        taught = "" if self.last_update is None else f", last_update={self.last_update!r}"
        return f"{type(self).__name__}({str(self.context)!r}{taught})"

    def _why_no_key(self) -> str:
        text = self.context
        if not isinstance(text, str) or text.startswith("mix(") or _POWER.fullmatch(text):
            return f"labels and outputs register a task; {text} is a composed context"
        suggested = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "my-task"
        return (
            f"{text!r} is not a task key: letters, digits, dots, underscores and hyphens, no spaces;"
            f" for example {suggested!r}"
        )

    def _register(self, rows: Rows, targets: NDArray[Any] | None) -> Operation[bool]:
        """Register the task, for rows and the targets that may become labels; return True if it is new."""
        fields: dict[str, Any] = {**self._fields}
        original = originals_form(rows)
        by_name = (isinstance(rows, list) and not original) or fields.get("features") is not None
        kind = next(iter(original)) if original else "records" if by_name else "rows"
        if self._grows and not self._has_outputs and targets is not None:
            # Labels of different types are refused by the server, in whatever order.
            fields["labels"] = sorted(set(targets.tolist()), key=lambda label: (type(label).__name__, label))
        if not isinstance(rows, list):
            fields["inputs"] = fields.get("inputs") or rows.shape[1]
        named = {"key": self._key, "loss": "cross_entropy"} | fields | ({} if kind == "rows" else {"kind": kind})
        return (yield from register_new(named))[1]

    def _prepare(self, rows: Rows, targets: NDArray[Any] | None) -> Operation[bool]:
        """Register the task, or without a schema check once that it is there; return True if it is new."""
        new = False
        if self._registered or self._key is None:
            return new
        if self._has_outputs:
            new = yield from self._register(rows, targets)
        else:
            try:
                yield from Operations.get_task(self, self._key)
            except UnknownTask as error:
                if not (self._grows and targets is not None):
                    hint = f"teach it: client.task({self._name!r}, labels=[…]) or outputs=n, or superposed teach"
                    raise error.explained(hint) from None
                new = yield from self._register(rows, targets)
        self._registered = True
        return new

    def _read(self, inputs: Inputs) -> Operation[Rows]:
        """Return rows as the task takes them: a data frame by name, unless the task takes rows of numbers."""
        if self._by_position is None and is_by_name(inputs) and self._key is not None:
            with suppress(UnknownTask):
                self._by_position = (yield from Operations.get_task(self, self._key)).kind == "rows"
        return inputs_of(inputs, by_name=not self._by_position)

    def _when_known(self, rows: Rows, answer: Callable[[], Operation[T]]) -> Operation[T]:
        """Return an answer about rows; a task that is not there yet is registered by the handle's schema."""
        new = False
        try:
            try:
                return (yield from answer())
            except UnknownTask:
                if not self._has_outputs:
                    raise
            self._registered = False
            new = yield from self._prepare(rows, None)
            return (yield from answer())
        except ApiError:
            self._by_position = None  # the task may be another by now
            if new:
                yield from self._unregister()
            raise

    def _unregister(self) -> Operation[None]:
        """Undo a registration whose first rows were refused, unless the task was taught since."""
        self._registered = False
        with suppress(ApiError):
            yield from Operations.delete_task(self, self._asked, updates=0)

    @chain
    def partial_fit(
        self, X: Inputs, y: Targets, *, steps: int | None = None, sample_weight: Any = None
    ) -> Operation[Self]:
        """Send one online update of rows (B, features), or B rows by name, and B targets.

        The first registers the task; one that is refused registers nothing.

        Args:
            X: Numbers, a data frame, or a list of dicts.
            y: Labels, or values.
            steps: Optimizer steps; default: the store's.
            sample_weight: (B,) how much each row counts, from 0.
        """
        yield from self._teach(*(yield from self._paired(X, y)), steps, sample_weight)
        return self

    def _teach(self, rows: Rows, targets: NDArray[Any], steps: int | None, sample_weight: Any) -> Operation[None]:
        new = yield from self._prepare(rows, targets)
        try:
            self._last_update = yield from Operations.update(
                self, self.context, rows, targets, steps=steps, grow_labels=self._grows, sample_weight=sample_weight
            )
        except UnknownTask:
            self._registered = False  # it was deleted: the next rows register it again
            raise
        except ApiError as error:
            self._by_position = None  # the task may be another by now
            if new:
                yield from self._unregister()
            if isinstance(error, LabelOutOfRange) and (found := self._first_unknown(targets)) is not None:
                raise error.explained(f"the first is {found[1]!r} at row {found[0]}") from None
            raise

    def _paired(self, inputs: Inputs, y: Targets) -> Operation[tuple[Rows, NDArray[Any]]]:
        rows, targets = (yield from self._read(inputs)), targets_of(y)
        if len(rows) != len(targets):
            raise ValueError(f"{len(rows)} rows, but {len(targets)} targets")
        return rows, targets

    def _first_unknown(self, targets: NDArray[Any]) -> tuple[int, Any] | None:
        """Return the first target that is none of the task's labels, and its row."""
        known: Sequence[Any] = range(self._fields.get("outputs") or 0)
        if (labels := self._fields.get("labels")) is not None:
            known, _ = labels_of(labels)
        values = enumerate(targets.tolist())
        return next(((row, value) for row, value in values if known and value not in known), None)

    @chain
    def fit(
        self,
        X: Inputs,
        y: Targets,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        seed: int | None = None,
        progress: bool = False,
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
    ) -> Operation[Self]:
        """Send updates over shuffled rows, `epochs` times; continue from the task's present state.

        `class_weight` is a weight a label, or "balanced" for the same sum of weights in each class.
        """
        rows, targets = yield from self._paired(X, y)
        weights = _weights(targets, sample_weight, class_weight)
        random = np.random.default_rng(seed)
        orders = [random.permutation(len(rows)) for _ in range(epochs)]
        batches = [order[part] for order in orders for part in chunks(len(rows), batch_size)]
        if progress:
            bar = optional("tqdm.auto", "a progress bar needs tqdm", "'superposed[progress]'").tqdm
            batches = bar(batches, desc=str(self.context), unit="update")
        for chosen in batches:
            own = None if weights is None else weights[chosen]
            if own is None or own.any():
                yield from self._teach(_take(rows, chosen), targets[chosen], None, own)
        return self

    @method
    def learn_model(
        self, model: Any, X: Inputs, *, epochs: int = 10, batch_size: int = 32, seed: int = 0
    ) -> Operation[float]:
        """Learn a trained model from its answers to unlabelled rows; the model itself runs here, and is not sent.

        Args:
            model: An object with `predict`; a torch module, or its state (linear layers with ReLU between); the path of
                an ONNX file; or a function: rows to labels, to scores of the labels in order, or to values.
            X: Rows as it takes them, 5 or more; on a fifth of them nothing is learned.
            epochs: How often the other rows are gone through.
            batch_size: Rows of one update.
            seed: Of the order.

        Returns:
            Agreement on the rows held out: accuracy, or R² of an mse task.
        """
        rows = yield from self._read(X)
        given = X if hasattr(model, "predict") else rows
        answers = targets_of(answers_of(model, given, (yield from self._labels())))
        if len(rows) != len(answers) or len(rows) < _LEAST_MODEL_ROWS:
            found = f"{len(rows)} rows, {len(answers)} answers"
            raise ValueError(f"a model is learned from its answers to {_LEAST_MODEL_ROWS} rows or more: {found}")
        order = np.random.default_rng(seed).permutation(len(rows))
        held, learned = order[: max(2, len(rows) // 5)], order[max(2, len(rows) // 5) :]
        taught = _take(rows, learned), answers[learned]
        yield from _TaskCalls.fit(self, *taught, batch_size=batch_size, epochs=epochs, seed=seed)
        return (yield from _TaskCalls.score(self, _take(rows, held), answers[held]))

    def _labels(self) -> Operation[NDArray[Any] | None]:
        """Return the task's labels, or class indexes, in order; None for values."""
        fields = self._fields
        if self._has_schema:
            labels, outputs, loss = fields.get("labels"), fields.get("outputs"), fields.get("loss", "cross_entropy")
        else:
            known = yield from Operations.get_task(self, self._asked)
            labels, outputs, loss = known.labels, known.outputs, known.loss
        if loss != "cross_entropy":
            return None
        return np.arange(outputs or 0) if labels is None else np.asarray(labels)

    @method
    def export(self, path: str | os.PathLike[str], *, encoder: bool = False, int8: bool = False) -> Operation[None]:
        """Write the context's model as an ordinary network to a file: .onnx or .safetensors, by its name.

        Args:
            path: The file.
            encoder: Whether an ONNX file takes the tokens of texts, with the task's encoder in it.
            int8: Whether an ONNX file has weights of 8 bits; its metadata tells how often it then agrees.
        """
        form: Literal["onnx", "safetensors"] = "onnx" if Path(path).suffix == ".onnx" else "safetensors"
        data = yield from Operations.model(self, self.context, format=form, encoder=encoder, int8=int8)
        Path(path).write_bytes(data)

    @method
    def to_torch(self, network: Any = None) -> Operation[Any]:
        """Return the context's model as a `torch.nn.Module`: rows (B, features) to probabilities, or to values.

        Args:
            network: A module of the store's architecture, where that is the user's own.
        """
        return torch_module((yield from Operations.model(self, self.context)), network)

    @method
    def info(self) -> Operation[TaskInfo]:
        """Return the task's schema and counters."""
        return (yield from Operations.get_task(self, self._asked))

    @method
    def evaluations(self) -> Operation[Listed[EvaluatedAccuracy]]:
        """Return the evaluations of the task at different numbers of tasks."""
        return (yield from Operations.evaluations(self, self._asked))

    @method
    def plot(self) -> Operation[Any]:
        """Draw what evaluations of the task have shown, over the number of tasks (extra `plots`); return the axes."""
        return plot_accuracies((yield from Operations.evaluations(self, self._asked)), str(self.context))

    @method
    def predict(self, X: Inputs) -> Operation[NDArray[Any]]:
        """Return labels (rows,) for cross-entropy; values (rows,) or (rows, outputs) for mse."""
        rows, found, form = (yield from self._read(X)), list[Any](), None
        for part in chunks(len(rows)):
            answer = yield from self._when_known(rows, partial(Operations.infer, self, self.context, rows[part]))
            found += (answer.labels if answer.labels is not None else answer.values) or []
            form = answer.label_form
        if found and isinstance(found[0], list):
            values = np.asarray(found)
            return values[:, 0] if values.shape[1] == 1 else values
        return np.asarray(found, dtype="M8[ns]" if form == "datetime" else None)

    @method
    def predict_proba(self, X: Inputs) -> Operation[NDArray[Any]]:
        """Return probabilities (rows, classes)."""
        rows, found = (yield from self._read(X)), list[Any]()
        for part in chunks(len(rows)):
            asked = partial(Operations.infer, self, self.context, rows[part], fields=["probabilities"])
            found += (yield from self._when_known(rows, asked)).probabilities or []
        return np.asarray(found)

    @method
    def score(self, X: Inputs, y: Targets) -> Operation[float]:
        """Return accuracy for cross-entropy, the coefficient of determination R² for mse."""
        rows, targets = yield from self._paired(X, y)
        if not self._has_schema:
            yield from self._prepare(rows, None)
        correct = 0.0
        for part in chunks(len(rows)):
            asked = partial(Operations.evaluate, self, self.context, rows[part], targets[part])
            measured = yield from self._when_known(rows, asked)
            if measured.accuracy is None:
                return _r2(targets, (yield from _TaskCalls.predict(self, X)))
            correct += measured.accuracy * measured.rows
        return correct / len(rows)


class Task(_TaskCalls, Sync):
    """A handle on one context, in scikit-learn's habit. Made by `Client.task`."""

    def _repr_html_(self) -> str:
        try:
            return self.info()._repr_html_()
        except SuperposedError:  # it is not registered yet, or a composition
            return escape(repr(self))


class AsyncTask(_TaskCalls, Async):
    """A handle on one context, in scikit-learn's habit. Made by `AsyncClient.task`; see `Task`."""


def _take(rows: Rows, chosen: NDArray[Any]) -> Rows:
    return [rows[place] for place in chosen] if isinstance(rows, list) else rows[chosen]


def _class_weights(labels: NDArray[Any], counts: NDArray[Any], class_weight: ClassWeight) -> NDArray[np.float64]:
    """Return the weight of each label, (labels,)."""
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f'class_weight is a dict or "balanced", not {class_weight!r}')
        balanced: NDArray[np.float64] = counts.sum() / (len(labels) * counts)
        return balanced
    given = dict(zip(labels_of(list(class_weight))[0], class_weight.values(), strict=True))
    if unknown := [label for label in given if label not in labels.tolist()]:
        raise ValueError(f"class_weight has labels that no row has, for example {unknown[0]!r}")
    return np.asarray([given.get(label, 1.0) for label in labels.tolist()])


def _weights(targets: NDArray[Any], sample_weight: Any, class_weight: ClassWeight | None) -> NDArray[np.float64] | None:
    """Return the weight of each row, (B,); None where all are 1.

    "balanced" gives all classes the same sum, as in scikit-learn: rows / (classes * rows of the class).
    """
    weights = np.ones(len(targets))
    if class_weight is not None:
        if targets.ndim != 1:
            raise ValueError("class_weight is for labels, one a row")
        labels, places = np.unique(targets, return_inverse=True)
        weights = weights * _class_weights(labels, np.bincount(places), class_weight)[places]
    if sample_weight is not None:
        given = np.asarray(plain_rows(sample_weight), dtype=np.float64)
        if given.shape != weights.shape:
            raise ValueError(f"{len(targets)} rows, but sample weights of the shape {given.shape}")
        weights = weights * given
    return None if class_weight is None and sample_weight is None else weights


def _r2(targets: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Return the coefficient of determination; a constant target gives 1 if it is met and 0 if not."""
    targets = targets.reshape(predicted.shape)
    residual = float(np.square(targets - predicted).sum())
    spread = float(np.square(targets - targets.mean(0)).sum())
    return 1.0 - residual / spread if spread else float(residual == 0)
