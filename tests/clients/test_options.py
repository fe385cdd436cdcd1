"""Answers before the first update, weights, top-k and confidence, and handles whose labels grow."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig
from superposed_client import ApiError, Client, InvalidRequest, TaskExists, UnknownTask
from superposed_client._task import _weights
from tests.conftest import make_directory, serving

X = np.random.default_rng(0).normal(size=(90, 4)) * [1, 100, 1e-3, 5] + [0, 1e4, 0, -7]
Y = np.where(X[:, 0] > 0.5, "high", np.where(X[:, 0] > -0.5, "mid", "low"))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    network, optimizer = (
        MLPConfig(inputs=4, hidden=(24,), outputs=5),
        OptimizerConfig(name="adam", learning_rate=1e-2),
    )
    path = make_directory(
        tmp_path_factory.mktemp("options") / "store", plain_config(network=network, optimizer=optimizer)
    )
    with serving(path, quota_updates_per_s=0.0, canary_rows=0, max_rows=200) as http:
        yield http


@pytest.fixture
def client(http: httpx.Client) -> Iterator[Client]:
    with Client(str(http.base_url)) as client:
        yield client


def test_a_handle_with_a_schema_answers_before_its_first_update(client: Client) -> None:
    early = client.task("early", labels=["low", "mid", "high"])
    np.testing.assert_allclose(early.predict_proba(X[:3]), 1 / 3)
    assert set(early.predict(X)) == {"low"}
    assert early.score(X, Y) == pytest.approx((Y == "low").mean())
    assert client.get_task("early").updates == 0
    assert client.task("early-line", outputs=2, loss="mse").predict(X[:2]).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(UnknownTask):
        client.task("nowhere").predict(X)
    with pytest.raises(ApiError):
        client.task("early-wide", labels=["a", "b"]).predict(np.zeros((1, 99)))
    assert client.list_tasks("early-wide") == []


def test_a_new_member_of_a_group_answers_as_the_group_does(client: Client) -> None:
    group = client.task("team", labels=["low", "mid", "high"]).fit(X, Y, epochs=20, seed=0)
    member = client.task("new", labels=["low", "mid", "high"], group="team")
    np.testing.assert_array_equal(member.predict(X), group.predict(X))
    assert member.score(X, Y) == group.score(X, Y) > 0.8
    other = client.task("fewer", labels=["yes", "no"], group="team")  # other outputs: nothing to answer with
    np.testing.assert_allclose(other.predict_proba(X[:2]), 0.5)
    member.partial_fit(X[:9], Y[:9])
    assert not np.array_equal(member.predict_proba(X), group.predict_proba(X))


def test_top_k_and_confidence_agree_with_the_probabilities(client: Client) -> None:
    task = client.task("ranked", labels=["low", "mid", "high"]).fit(X, Y, epochs=5, seed=0)
    fields = ["labels", "probabilities", "confidence", "top_k", "logits"]
    answer = client.infer("ranked", X[:20], fields=fields, k=2)
    shares, temperature = np.asarray(answer.probabilities), client.get_task("ranked").temperature
    raised = np.exp(np.asarray(answer.logits) / temperature)
    np.testing.assert_allclose(shares, raised / raised.sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(answer.confidence), shares.max(1))
    for row, ranked in enumerate(answer.top_k or []):
        assert ranked is not None
        assert next(one.label for one in ranked) == (answer.labels or [])[row]
        assert [one.probability for one in ranked] == sorted(shares[row], reverse=True)[:2]
    assert len((client.infer("ranked", X[:1], fields=["top_k"]).top_k or [[]])[0] or []) == 3
    client.task("a-line", outputs=1, loss="mse").partial_fit(X[:4], [1.0, 2, 3, 4])
    mixed = client.infer(None, X[:2], contexts=["ranked", "a-line"], fields=["top_k", "values"])
    assert (mixed.top_k or [])[1] is None
    with pytest.raises(InvalidRequest):
        client.infer("a-line", X[:1], fields=["confidence"])
    assert task.predict(X).shape == (90,)


def test_class_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_sample_weight

    y = np.array(["a"] * 7 + ["b"] * 2 + ["c"])
    np.testing.assert_allclose(np.asarray(_weights(y, None, "balanced")), compute_sample_weight("balanced", y))
    np.testing.assert_allclose(
        np.asarray(_weights(y, np.arange(10), {"a": 2.0, "c": 0.5})),
        compute_sample_weight({"a": 2.0, "c": 0.5}, y) * np.arange(10),
    )
    assert _weights(y, None, None) is None
    with pytest.raises(ValueError, match="10 rows, but sample weights of the shape"):
        _weights(y, [1.0], None)


def test_weights_are_sent_and_bad_ones_are_refused(client: Client) -> None:
    task = client.task("weighted", labels=["low", "mid", "high"])
    task.fit(X, Y, epochs=2, class_weight="balanced", sample_weight=np.ones(90))
    task.partial_fit(X[:3], Y[:3], sample_weight=[0.0, 1.0, 2.5])
    for bad in ([1.0], [-1.0, 1, 1], [float("nan"), 1, 1], [0, 0, 0], [1e9, 1, 1]):
        with pytest.raises(ApiError):
            task.partial_fit(X[:3], Y[:3], sample_weight=bad)
    assert client.get_task("weighted").rows_seen == 183


def test_a_handle_whose_labels_grow_needs_none_at_first(client: Client) -> None:
    stream = client.task("growing", grow_labels=True)
    with pytest.raises(UnknownTask):
        stream.predict(X[:1])
    stream.partial_fit(X[:2], [3, 1])
    assert client.get_task("growing").labels == [1, 3]
    stream.partial_fit(X[:2], [2, 3])
    assert client.get_task("growing").labels == [1, 3, 2]
    again = client.task("growing", grow_labels=True).partial_fit(X[:1], [7])
    assert client.get_task("growing").labels == [1, 3, 2, 7]
    assert set(again.predict(X)) <= {1, 2, 3, 7}
    with pytest.raises(TaskExists):
        client.task("growing", labels=[3, 1]).partial_fit(X[:1], [3])
    with pytest.raises(InvalidRequest, match="different types"):
        client.task("growing-mixed", grow_labels=True).partial_fit(X[:2], [1, "a"])
    assert client.list_tasks("growing-mixed") == []
