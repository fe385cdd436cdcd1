"""scikit-learn estimators: a task of a store in this process, or of a server.

Needs scikit-learn: `pip install 'superposed[sklearn]'`.

Example:
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from superposed.sklearn import SuperposedClassifier
    >>> scores = cross_val_score(SuperposedClassifier(random_state=0), *load_iris(return_X_y=True))
    >>> bool(scores.mean() > 0.9)
    True
"""

import secrets
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Self

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


class _ServerTask:
    """A task of a server. A temporary one is removed with this object, or at the end of the process."""

    def __init__(self, url: str, schema: dict[str, Any], *, temporary: bool) -> None:
        self._url, self._key, self._labels = url, schema["key"], schema.get("labels")
        self._field = "values" if schema["loss"] == "mse" else "probabilities"
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
        answer = self._client.infer(self._key, rows, fields=[self._field])
        return np.asarray(getattr(answer, self._field), dtype=np.float64)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect(None)


def _end(client: Client, temporary: str | None) -> None:
    with client, suppress(SuperposedError):
        if temporary is not None:
            client.delete_task(temporary)


@dataclass(kw_only=True, eq=False, repr=False)
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
        url: A server that keeps the task; None for a store in this process. Its API key comes from SUPERPOSED_API_KEY.
        key: The task's key on the server, where `fit` begins it anew. Without a key, and for clones, the task
            is a temporary one, which ends with the estimator, also for its copies in other processes.
    """

    preset: str = "general"
    hidden: Sequence[int] | None = None
    learning_rate: float | None = None
    epochs: int = 20
    batch_size: int = 32
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 3
    random_state: Any = None
    url: str | None = None
    key: str | None = None

    _loss: ClassVar[str]
    _checks: ClassVar[dict[str, bool]] = {}  # what scikit-learn checks of rows and targets
    _temporary = False

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
        self._begin_model(targets, random)
        rows: NDArray[np.intp] = np.arange(len(X))
        if self.early_stopping:
            rows, held = train_test_split(rows, test_size=self.validation_fraction, random_state=random)
        self.validation_scores_: list[float] = []
        while self.n_iter_ < self.epochs:
            self._learn(X, targets, weights, random.permutation(rows))
            if held is not None:
                self.validation_scores_.append(self._score(X[held], targets[held]))
                if self.n_iter_ - 1 - int(np.argmax(self.validation_scores_)) >= self.n_iter_no_change:
                    break
        return self

    def _continue(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        new = not hasattr(self, "_model")
        X, targets, weights = self._begin(X, y, sample_weight, classes=classes, new=new)
        if new:
            self._begin_model(targets, check_random_state(self.random_state))
        self._learn(X, targets, weights, np.arange(len(X)))
        return self

    def _begin(
        self, X: Any, y: Any, sample_weight: Any, *, classes: Any = None, new: bool = True
    ) -> tuple[Rows, NDArray[Any], Rows | None]:
        X, y = validate_data(self, X, y, reset=new, dtype=np.float64, **self._checks)
        targets = self._targets(y, classes, new)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        return X, targets, weights

    def _learn(self, X: Rows, targets: NDArray[Any], weights: Rows | None, order: NDArray[np.intp]) -> None:
        order = order if weights is None else order[weights[order] > 0]
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            self._model.teach(X[rows], targets[rows].tolist(), None if weights is None else weights[rows].tolist())
        self.n_iter_ += 1

    def _begin_model(self, targets: NDArray[Any], random: Any) -> None:
        outputs, labels = self._outputs(targets)
        sizes = {"inputs": self.n_features_in_, "outputs": outputs}
        schema: dict[str, Any] = {"key": "task", **sizes, "loss": self._loss, "scaling": "running"}
        self.n_iter_, seed = 0, random.randint(2**31)
        if self.url is not None:
            temporary = self._temporary or self.key is None
            schema |= {"key": f"sklearn-{secrets.token_hex(8)}" if temporary else self.key, "labels": labels}
            self._model: OwnTask | _ServerTask = _ServerTask(self.url, schema, temporary=temporary)
            return
        network = sizes | ({} if self.hidden is None else {"hidden": tuple(self.hidden)})
        optimizer = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        config = StoreConfig.of_preset(self.preset, {"network": network, "optimizer": optimizer})
        self._model = OwnTask(config, TaskSchema(**schema), seed)

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

    _loss = "cross_entropy"

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

    def _targets(self, y: NDArray[Any], classes: Any, new: bool) -> NDArray[Any]:
        check_classification_targets(y)
        if new:
            self.classes_ = np.unique(y if classes is None else classes)
        known = np.isin(y, self.classes_)
        if not known.all():
            raise ValueError(f"y has labels that are not in classes: {np.unique(y[~known])[:5].tolist()}")
        return np.searchsorted(self.classes_, y)

    def _outputs(self, targets: NDArray[Any]) -> tuple[int, list[Any] | None]:
        # One label needs no model, and a task has two outputs or more.
        return (len(self.classes_), self.classes_.tolist()) if len(self.classes_) > 1 else (2, None)

    def _score(self, X: Rows, targets: NDArray[Any]) -> float:
        return float((self._model.answer(X).argmax(1) == targets).mean())


class SuperposedRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor that is a task of a superposed store; its parameters are those of `_Estimator`.

    Attributes:
        n_features_in_: Features of a row.
        n_iter_: Passes over rows so far.
        validation_scores_: R² on the rows held out, after each epoch, where `early_stopping` is on.
    """

    _loss = "mse"
    _checks: ClassVar = {"multi_output": True, "y_numeric": True}

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn rows once, in their order; arguments as `fit`."""
        return self._continue(X, y, sample_weight)

    def predict(self, X: Any) -> Rows:
        """Return values (B,) of rows (B, features), or (B, outputs) where targets had two dimensions."""
        answers = self._answers(X)
        return answers if self._columns else answers[:, 0]

    def _targets(self, y: NDArray[Any], classes: Any, new: bool) -> NDArray[Any]:
        if new:
            self._columns = y.ndim == 2
        return y.reshape(len(y), -1).astype(np.float64)

    def _outputs(self, targets: NDArray[Any]) -> tuple[int, list[Any] | None]:
        return targets.shape[1], None

    def _score(self, X: Rows, targets: NDArray[Any]) -> float:
        return float(r2_score(targets, self._model.answer(X)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
