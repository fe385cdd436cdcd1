"""`superposed.sklearn` and `superposed.river`: the libraries' own checks, and what users do with them."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import checks, compose, datasets, evaluate, metrics, preprocessing
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

from demo.server_process import Server
from superposed import river
from superposed.sklearn import SuperposedClassifier, SuperposedRegressor
from tests.conftest import make_directory

WINE = load_wine(return_X_y=True)
# Each deviation, and why.
DEVIATIONS = {"check_sample_weight_equivalence_on_dense_data": "batches, and their order, depend on the number of rows"}
SMALL: dict[str, Any] = {"hidden": (16,), "epochs": 5, "random_state": 0}


def _sklearn_checks() -> list[Any]:
    estimators = SuperposedClassifier(hidden=(32,), epochs=5), SuperposedRegressor(hidden=(32,), epochs=5)
    found = [pair for one in estimators for pair in estimator_checks_generator(one)]
    return [pytest.param(*pair, id=f"{type(pair[0]).__name__}-{_name(pair[1])}") for pair in found]


def _name(check: Any) -> str:
    return str(getattr(check, "func", check).__name__)


@pytest.mark.parametrize(("estimator", "check"), _sklearn_checks())
def test_what_scikit_learn_asks_of_an_estimator(estimator: Any, check: Callable[[Any], None]) -> None:
    if _name(check) in DEVIATIONS:
        with pytest.raises(AssertionError):
            check(estimator)
        return
    check(estimator)


def _river_checks() -> list[Any]:
    """Return river's checks, each on the first of its streams: `ALL_CHECKS=1` adds the others, which take minutes."""
    found: dict[str, Any] = {}
    for model in (river.SuperposedClassifier, river.SuperposedRegressor):
        small = {"inputs": 32, "hidden": (8,)}
        for number, check in enumerate(checks.yield_checks(model(**small))):
            name = f"{model.__name__}-{check.__name__}"
            if "ALL_CHECKS" in os.environ:
                found[f"{name}-{number}"] = (model, small, check)
            elif check.__name__ != "check_bounded_memory_growth":
                found.setdefault(name, (model, small, check))
    return [pytest.param(*one, id=name) for name, one in found.items()]


@pytest.mark.parametrize(("model", "parameters", "check"), _river_checks())
def test_what_river_asks_of_a_model(model: Any, parameters: dict[str, Any], check: Callable[[Any], None]) -> None:
    check(model(**parameters))


def test_pipelines_and_searches() -> None:
    pipeline = make_pipeline(PowerTransformer(), SuperposedClassifier(**SMALL))
    assert cross_val_score(pipeline, *WINE, cv=3).mean() > 0.85
    search = GridSearchCV(pipeline, {"superposedclassifier__epochs": [1, 15]}, cv=3).fit(*WINE)
    assert search.best_score_ > 0.93
    assert search.best_params_ == {"superposedclassifier__epochs": 15}


def test_a_regressor_of_several_values() -> None:
    X, y = load_diabetes(return_X_y=True)
    both = np.stack([y, -2 * y + 1000], axis=1)
    model = SuperposedRegressor(**SMALL).fit(X, both)
    assert model.predict(X).shape == both.shape
    assert model.score(X, both) > 0.4


def test_text_labels_pickling_and_going_on() -> None:
    X, y = WINE
    names = np.array(["red", "white", "rosé"])[y]
    model = SuperposedClassifier(**SMALL)
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(ValueError, match="not in classes"):
        model.partial_fit(X[:10], names[:10], classes=["white", "rosé"])
    for _ in range(5):
        model.partial_fit(X, names, classes=["red", "white", "rosé"])
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    again.partial_fit(X, names)
    model.partial_fit(X, names)
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert model.n_iter_ == 6
    assert np.allclose(model.predict_proba(X).sum(1), 1)
    assert model.score(X, names) > 0.9


def test_rows_without_weight_teach_nothing() -> None:
    X, y = WINE
    weights = np.where(y == 2, 0.0, 1.0)
    model = SuperposedClassifier(**SMALL).fit(X, y, sample_weight=weights)
    assert set(model.predict(X)) == {0, 1}


def test_early_stopping() -> None:
    X, y = WINE
    model = SuperposedClassifier(**SMALL | {"epochs": 100, "early_stopping": True, "validation_fraction": 0.3})
    model.fit(X, y)
    assert model.n_iter_ == len(model.validation_scores_) < 100
    assert model.validation_scores_[-4] >= max(model.validation_scores_[-3:])
    assert model.validation_scores_[-4] > 0.9


def test_a_stream_with_new_labels_and_names() -> None:
    model = river.SuperposedClassifier(inputs=32, hidden=(16,))
    assert model.predict_one({"city": "Rome"}) is None
    cities = [({"city": "Rome", "age": 3}, "it"), ({"city": "Paris", "age": 4}, "fr"), ({"city": "Bern"}, "ch")]
    for x, y in cities * 30:
        model.learn_one(x | {f"new-{y}": 1}, y)
    assert [model.predict_one(x) for x, _ in cities] == ["it", "fr", "ch"]
    assert set(model.predict_proba_one({"city": "Oslo"})) == {"it", "fr", "ch"}
    pipeline = compose.Pipeline(preprocessing.StandardScaler(), river.SuperposedClassifier(inputs=32, hidden=(16,)))
    found = evaluate.progressive_val_score(datasets.Phishing().take(200), pipeline, metrics.Accuracy())
    assert found.get() > 0.75


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(make_directory(Path(tmp_path_factory.mktemp("estimators")) / "store")) as server:
        yield server


def keys(server: Server) -> list[str]:
    with server.client() as client:
        return [task.key for task in client.list_tasks()]


def test_a_task_of_a_server(server: Server) -> None:
    X, y = WINE
    names = np.array(["red", "white", "rosé"])[y]
    rows, held, labels, held_labels = train_test_split(X, names, random_state=0)
    model = SuperposedClassifier(url=server.url, key="wine", epochs=10, random_state=0).fit(rows, labels)
    assert model.score(held, held_labels) > 0.9
    assert keys(server) == ["wine"]
    scores = cross_val_score(model, X, names, cv=3)
    assert scores.mean() > 0.9
    copied = clone(model).fit(rows, labels)
    temporary = set(keys(server)) - {"wine"}
    assert temporary
    del copied
    gc.collect()
    assert keys(server) == ["wine"]
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(held), model.predict(held))
    with server.client() as client:
        assert np.array_equal(client.task("wine").predict(held), model.predict(held))
    model.fit(rows[:8], np.array(["red", "other"] * 4))  # anew
    assert list(model.classes_) == ["other", "red"]


def test_values_on_a_server(server: Server) -> None:
    X, y = load_diabetes(return_X_y=True)
    model = SuperposedRegressor(url=server.url, epochs=5, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.4
    del model
    gc.collect()
    assert "sklearn" not in " ".join(keys(server))


def test_one_label_on_a_server(server: Server) -> None:
    X = WINE[0][:6]
    model = SuperposedClassifier(url=server.url, epochs=1).fit(X, ["red"] * 6)
    assert model.predict(X).tolist() == ["red"] * 6
    assert model.predict_proba(X).tolist() == [[1.0]] * 6
