"""scikit-learn estimators: a task of a store in this process, or of a server.

Needs scikit-learn: `pip install 'superposed[sklearn]'`.

Example:
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_score
    >>> from superposed.sklearn import SuperposedClassifier
    >>> scores = cross_val_score(SuperposedClassifier(random_state=0), *load_iris(return_X_y=True))
    >>> bool(scores.mean() > 0.9)
    True
"""

import secrets
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from superposed.config import StoreConfig
from superposed.learning.own_task import OwnTask
from superposed.tasks.schema import TaskSchema
from superposed_client import Client, SuperposedError, UnknownTask

Rows = NDArray[np.float64]


class _Model(Protocol):
    """A task, wherever it is: rows are (B, features), targets B class indexes or values."""

    def teach(self, rows: Rows, targets: Sequence[Any], weights: Sequence[float] | None) -> None:
        """Send one update."""

    def answer(self, rows: Rows) -> Rows:
        """Return probabilities (B, classes), or values (B, outputs)."""


class _ServerTask:
    """A task of a server. A temporary one is removed with this object, or at the end of the process."""

    def __init__(self, url: str, schema: dict[str, Any], *, temporary: bool) -> None:
        self._url, self._key, self._labels = url, schema["key"], schema.get("labels")
        self._connect(self._key if temporary else None)
        if not temporary:
            with suppress(UnknownTask):
                self._client.delete_task(self._key)
        self._client.register_task(**schema)

    def _connect(self, temporary: str | None) -> None:
        self._client = Client(self._url)
        weakref.finalize(self, _end, self._client, temporary)

    def teach(self, rows: Rows, targets: Sequence[Any], weights: Sequence[float] | None) -> None:
        sent = targets if self._labels is None else [self._labels[index] for index in targets]
        self._client.update(self._key, rows, sent, sample_weight=weights)

    def answer(self, rows: Rows) -> Rows:
        field = "values" if self._labels is None else "probabilities"
        return np.asarray(getattr(self._client.infer(self._key, rows, fields=[field]), field), dtype=np.float64)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect(None)


def _end(client: Client, temporary: str | None) -> None:
    with client, suppress(SuperposedError):
        if temporary is not None:
            client.delete_task(temporary)


class _Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A task with scikit-learn's methods.

    Args:
        preset: Preset of the store's settings; of a server, the server's are taken.
        hidden: Widths of the hidden layers; None for the preset's.
        learning_rate: Of the optimizer; None for the preset's.
        epochs: Passes over the rows in `fit`, at most.
        batch_size: Rows of one update.
        early_stopping: Whether `fit` ends once the score on rows held out no longer rises.
        validation_fraction: Share of the rows that are held out for that.
        n_iter_no_change: Epochs without a better score after which it ends.
        random_state: Of the store's secret, the order of the rows and the rows held out.
        url: A server that keeps the task; None for a store in this process. Its API key comes from
            SUPERPOSED_API_KEY.
        key: The task's key on the server, where `fit` begins it anew. Without a key, and for clones, the task
            is a temporary one, which is removed with the estimator.
    """

    def __init__(
        self,
        *,
        preset: str = "general",
        hidden: Sequence[int] | None = None,
        learning_rate: float | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        random_state: Any = None,
        url: str | None = None,
        key: str | None = None,
    ) -> None:
        self.preset, self.hidden, self.learning_rate = preset, hidden, learning_rate
        self.epochs, self.batch_size = epochs, batch_size
        self.early_stopping, self.validation_fraction = early_stopping, validation_fraction
        self.n_iter_no_change, self.random_state = n_iter_no_change, random_state
        self.url, self.key = url, key

    _temporary = False
    _model: _Model

    def __sklearn_clone__(self) -> Self:
        params = {name: clone(value, safe=False) for name, value in self.get_params(deep=False).items()}
        made = type(self)(**params)
        made._temporary = True
        return made

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn rows from the beginning.

        Args:
            X: (B, features).
            y: B labels; of a regressor (B,) or (B, outputs) numbers.
            sample_weight: (B,) how much each row counts, from 0.
        """
        X, targets, weights = self._begin(X, y, sample_weight)
        random, held = check_random_state(self.random_state), None
        self._model = self._new_model(targets, random.randint(2**31))
        rows: NDArray[np.intp] = np.arange(len(X))
        if self.early_stopping:
            rows, held = train_test_split(rows, test_size=self.validation_fraction, random_state=random)
        self.n_iter_, self.validation_scores_, best = 0, list[float](), 0
        while self.n_iter_ < self.epochs:
            self._learn(X, targets, weights, random.permutation(rows))
            self.n_iter_ += 1
            if held is None:
                continue
            self.validation_scores_.append(self._score(X[held], targets[held]))
            best = int(np.argmax(self.validation_scores_))
            if self.n_iter_ - 1 - best >= self.n_iter_no_change:
                break
        return self

    def _continue(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        new = not hasattr(self, "_model")
        X, targets, weights = self._begin(X, y, sample_weight, classes=classes, new=new)
        if new:
            self._model = self._new_model(targets, check_random_state(self.random_state).randint(2**31))
            self.n_iter_ = 0
        self._learn(X, targets, weights, np.arange(len(X)))
        self.n_iter_ += 1
        return self

    def _learn(self, X: Rows, targets: NDArray[Any], weights: Rows | None, order: NDArray[np.intp]) -> None:
        order = order if weights is None else order[weights[order] > 0]
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            self._model.teach(X[rows], targets[rows].tolist(), None if weights is None else weights[rows].tolist())

    def _new_model(self, targets: NDArray[Any], seed: int) -> _Model:
        schema = {"key": "task", "inputs": self.n_features_in_, "scaling": "running"} | self._outputs(targets)
        if self.url is not None:
            temporary = self._temporary or self.key is None
            schema["key"] = f"sklearn-{secrets.token_hex(8)}" if temporary else self.key
            return _ServerTask(self.url, schema, temporary=temporary)
        outputs = schema.setdefault("outputs", len(schema.pop("labels", [])))
        network = {"inputs": self.n_features_in_, "outputs": outputs}
        network |= {} if self.hidden is None else {"hidden": tuple(self.hidden)}
        changed: dict[str, Any] = {"network": network}
        if self.learning_rate is not None:
            changed["optimizer"] = {"learning_rate": self.learning_rate}
        return OwnTask(StoreConfig.of_preset(self.preset, changed), TaskSchema(**schema), seed)

    def _answers(self, X: Any) -> Rows:
        check_is_fitted(self, "n_iter_")
        return self._model.answer(validate_data(self, X, reset=False, dtype=np.float64))


class SuperposedClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier that is a task of a superposed store; its parameters are those of `_Estimator`.

    Attributes:
        classes_: (classes,) the labels, sorted.
        n_features_in_: Features of a row.
        n_iter_: Passes over rows so far.
        validation_scores_: Accuracy on the rows held out, after each epoch, where `early_stopping` is on.
    """

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn rows once, in their order; arguments as `fit`, and all `classes` with the first rows."""
        return self._continue(X, y, sample_weight, classes)

    def predict_proba(self, X: Any) -> Rows:
        """Return probabilities (B, classes) of rows (B, features)."""
        answers = self._answers(X)
        return answers if len(self.classes_) > 1 else np.ones((len(answers), 1))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the labels (B,) of rows (B, features)."""
        places = self.predict_proba(X).argmax(1)
        found: NDArray[Any] = self.classes_[places]
        return found

    def _begin(
        self, X: Any, y: Any, sample_weight: Any, *, classes: Any = None, new: bool = True
    ) -> tuple[Rows, NDArray[Any], Rows | None]:
        X, y = validate_data(self, X, y, reset=new, dtype=np.float64)
        check_classification_targets(y)
        if new:
            self.classes_ = np.unique(y if classes is None else classes)
        known = np.isin(y, self.classes_)
        if not known.all():
            raise ValueError(f"y has labels that are not in classes: {np.unique(y[~known])[:5].tolist()}")
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        return X, np.searchsorted(self.classes_, y), weights

    def _outputs(self, targets: NDArray[Any]) -> dict[str, Any]:
        del targets
        if len(self.classes_) < 2:  # one label needs no model, and a task has two outputs or more
            return {"outputs": 2, "loss": "cross_entropy"}
        return {"labels": self.classes_.tolist(), "loss": "cross_entropy"}

    def _score(self, X: Rows, targets: NDArray[Any]) -> float:
        return float((self._model.answer(X).argmax(1) == targets).mean())


class SuperposedRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor that is a task of a superposed store; its parameters are those of `_Estimator`.

    Attributes:
        n_features_in_: Features of a row.
        n_iter_: Passes over rows so far.
        validation_scores_: R² on the rows held out, after each epoch, where `early_stopping` is on.
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn rows once, in their order; arguments as `fit`."""
        return self._continue(X, y, sample_weight)

    def predict(self, X: Any) -> Rows:
        """Return values (B,) of rows (B, features), or (B, outputs) where targets had two dimensions."""
        answers = self._answers(X)
        return answers if self._columns else answers[:, 0]

    def _begin(
        self, X: Any, y: Any, sample_weight: Any, *, classes: Any = None, new: bool = True
    ) -> tuple[Rows, NDArray[Any], Rows | None]:
        del classes
        X, y = validate_data(self, X, y, reset=new, dtype=np.float64, multi_output=True, y_numeric=True)
        if new:
            self._columns = y.ndim == 2
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        return X, y.reshape(len(y), -1).astype(np.float64), weights

    def _outputs(self, targets: NDArray[Any]) -> dict[str, Any]:
        return {"outputs": targets.shape[1], "loss": "mse"}

    def _score(self, X: Rows, targets: NDArray[Any]) -> float:
        return float(r2_score(targets, self._model.answer(X)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
