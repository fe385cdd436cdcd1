"""The comparisons' arithmetic, and the data that the demo ships."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.report import STORE, Found, cost_of_weights, summary
from demo.sentences import load_sentences
from demo.tenants import INTENTS, LEARNED, TENANTS, _tasks


def test_differences_are_paired_on_the_same_draw() -> None:
    first = Found(
        accuracy={STORE: [90.0, 92.0], "other": [89.0, 91.0]}, cost={"other": cost_of_weights(10, seconds=1.0)}
    )
    second = Found(accuracy={STORE: [70.0], "other": [67.0]}, cost={"other": cost_of_weights(20, seconds=2.0)})
    found = summary([first, second])
    assert found[STORE]["store less it"] == 0
    assert "cost" not in found[STORE]
    other = found["other"]
    assert other["cost"] == {"weights": 60, "contexts": 0, "kept": 0, "seconds": 1.5}
    assert (other["accuracy"], other["by draw"]) == (78.5, [90.0, 67.0])
    assert other["store less it"] == 2.0  # 1 and 3
    assert other["two standard errors"] == pytest.approx(2 * np.std([1, 3], ddof=1) / np.sqrt(2))


def test_the_demo_has_its_sentences_and_their_notice() -> None:
    sentences = load_sentences()
    assert len(sentences.domains) == 10
    intents = [intent for several in sentences.domains.values() for intent in several]
    assert len(set(intents)) == 150
    for texts in (sentences.learned, sentences.tested):
        assert {intent: len(set(own)) for intent, own in texts.items()} == dict.fromkeys(intents, 10)
    assert len(sentences.out_of_scope) == 100


def test_the_demos_tasks() -> None:
    tasks, newcomer = _tasks(load_sentences())
    tenants = [task for task in [*tasks, newcomer] if task.kind != "table"]
    assert len(tenants) == TENANTS + 1
    assert len(tasks) == TENANTS + 3
    for task in tenants:
        assert len(task.labels) == INTENTS
        assert len(task.train_x) == INTENTS * LEARNED
        assert set(task.test_y) == set(task.labels)
        assert not set(task.train_x) & set(task.test_x)
