"""Answers in notebooks and terminals: short, and as data frames and plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import superposed_client
from superposed_client import AsyncClient, Client, _errors, models
from superposed_client._shown import short, sparkline
from superposed_client.models import Inference, NewApiKey, Rollback, TaskInfo
from tests.conftest import make_directory, serving

mpl.use("Agg")
X = np.random.default_rng(0).normal(size=(60, 64))
Y = X[:, :3].argmax(1)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path = make_directory(Path(tmp_path_factory.mktemp("shown")) / "store")
    with serving(path) as http, Client(str(http.base_url)) as client:
        for key in ("one", "two"):
            client.task(key, outputs=3, scale=[2.0] * 64).fit(X, Y, seed=0)
            client.task(key).score(X, Y)
        yield client


def test_no_answer_is_long(client: Client) -> None:
    info = client.get_task("one")
    answer = client.infer("one", X, fields=["probabilities", "labels"])
    for shown in (info, answer, client.store(), client.capacity(), client.update("one", X, Y)):
        assert len(repr(shown)) < 1500
        assert len(shown._repr_html_()) < 4000
        assert shown._repr_html_().startswith("<table>")
    assert "64 in all" in repr(info)
    assert "abstain" not in repr(info)  # it has none
    task = client.task("one")
    assert repr(task) == "Task('one')"
    assert "key" in task._repr_html_()
    assert client.task("nobody")._repr_html_() == "Task(&#x27;nobody&#x27;)"
    assert repr(client).startswith("Client('http://127.0.0.1")
    assert "accuracy=" in repr(client.task("one").partial_fit(X, Y))
    assert repr(AsyncClient("http://127.0.0.1:1")) == "AsyncClient('http://127.0.0.1:1')"


def test_values_within_values_are_told_apart(client: Client) -> None:
    undone = Rollback(sequence=9, rebuilt_from=2, excluded=[(3, 5), (8, 8)])
    assert "excluded=(3, 5), (8, 8)" in repr(undone)
    task = client.task("two")
    task.partial_fit(X[:3], Y[:3])
    assert repr(task).startswith("Task('two', last_update=Update(rows=3")


def test_a_key_is_shown_nowhere() -> None:
    made = NewApiKey(id="1", key="secret")
    assert "secret" not in repr(made) + str(made) + made._repr_html_()


def test_data_frames(client: Client) -> None:
    answer = client.infer("one", X, fields=["probabilities", "labels", "confidence"])
    frame = answer.to_pandas()
    assert list(frame.columns) == ["labels", "probabilities", "confidence"]
    assert frame.confidence.tolist() == answer.confidence
    tasks = client.list_tasks()
    assert tasks.to_pandas().key.tolist() == ["one", "two"]
    assert tasks._repr_html_().count("<tr>") == 3
    assert isinstance(client.evaluations("one").to_pandas(), pd.DataFrame)
    assert isinstance(client.list_snapshots(), list)


def test_plots(client: Client) -> None:
    axes = client.task("one").plot()
    assert axes.get_title() == "one"
    assert axes.lines[0].get_ydata()[-1] == client.evaluations("one")[-1].accuracy
    heat = client.plot_interference(["one", "two"])
    assert [one.get_text() for one in heat.get_yticklabels()] == ["one", "two"]
    for drawn in (axes, heat):
        mpl.pyplot.close(drawn.figure)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_sparklines(numbers: list[float]) -> None:
    drawn = sparkline(numbers)
    assert len(drawn) == min(len(numbers), 40)
    if max(numbers) > min(numbers) and len(numbers) <= 40:
        assert drawn[numbers.index(max(numbers))] == "█"
        assert drawn[numbers.index(min(numbers))] == "▁"


VALUES = st.none() | st.floats() | st.text() | st.integers()


@given(st.recursive(VALUES, lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_any_value_is_short(value: object) -> None:
    assert isinstance(short(value), str)


def test_html_is_escaped() -> None:
    shown = Inference(sequence=1, labels=["<script>"])._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert TaskInfo.__repr__ is Inference.__repr__


def test_every_answer_and_error_can_be_imported_by_its_name() -> None:
    for module in (models, _errors):
        own = {name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
        assert (
            {name for name in own if not name.startswith("_")} <= set(module.__all__) <= set(superposed_client.__all__)
        )
