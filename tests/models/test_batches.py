"""Several callers' rows prepared together are what each caller's rows are, prepared alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superposed import TaskSchema, WeightStore
from superposed.learning.online import learn
from superposed.tasks.batch import merge
from tests.helpers.small_stores import store_of

STORE = store_of(tasks=4)
ROWS = [[0.5, -1.0, 2.0, 0.0, 3.0, 1.0, 7.0], [1, 2, 3, 4, 5, 6, 7]]


def each(store: WeightStore, contexts: list[str], inputs: list[Any]) -> Any:
    return store.batch_each([store.resolve(context) for context in contexts], inputs)


@settings(max_examples=100, deadline=None)
@given(
    callers=st.lists(
        st.tuples(st.sampled_from(["t0", "t1", "t2", "mix(t0:1,t3:2)", "t1^0.5"]), st.integers(1, 4)),
        min_size=2,
        max_size=6,
    ),
    kind=st.sampled_from(["list", "float32", "float64", "int16", "uint8", ">f4", "float16"]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_together_as_alone(callers: list[tuple[str, int]], kind: str, dtype: str) -> None:
    store = STORE if dtype == "float32" else store_of(dtype=dtype)
    random = np.random.default_rng(0)
    inputs: list[Any] = []
    for _, rows in callers:
        numbers = random.integers(0, 200, size=(rows, 7)) / (1 if "int" in kind else 7)
        inputs.append(numbers.tolist() if kind == "list" else numbers.astype(kind))
    contexts = [context for context, _ in callers]
    together = each(store, contexts, inputs)
    alone = merge([store.batch(context, rows) for context, rows in zip(contexts, inputs, strict=True)])
    assert torch.equal(together.inputs, alone.inputs)
    assert together.inputs.dtype == alone.inputs.dtype
    assert [part.context for part in together.parts] == [part.context for part in alone.parts]
    assert torch.equal(together.places(), alone.places())


@pytest.mark.parametrize(
    "odd",
    [
        [], [[]], "rows", None, 3, [ROWS[0][:6]], [ROWS[0], ROWS[0][:6]], [["x"] * 7], [[None] * 7],
        [[float("nan")] * 7], [[1e300] * 7], [[[1.0]] * 7], np.zeros((0, 7)), np.zeros((1, 6)),
        np.zeros(7), np.zeros((7, 2)).T, np.full((1, 7), np.inf), np.array([["1"] * 7]),
        torch.zeros(1, 7), tuple(ROWS),
    ],
)  # fmt: skip
def test_what_needs_more_than_that_is_left_to_each_caller(odd: Any) -> None:
    """Other rows in the batch do not matter, nor does their place."""
    plain: Any = np.asarray(ROWS) if isinstance(odd, np.ndarray) else ROWS
    for inputs in ([odd, plain], [plain, odd], [plain, plain, odd]):
        assert each(STORE, ["t0", "t1", "t2"][: len(inputs)], inputs) is None


@pytest.mark.parametrize("kind", ["list", "int16", "float32", "float64"])
@pytest.mark.parametrize("other", ["list", "whole list", "int16", "float32"])
def test_callers_of_different_kinds_get_what_each_gets_alone_or_are_left_to_it(kind: str, other: str) -> None:
    numbers = np.asarray(ROWS)
    lists: dict[str, Any] = {"list": numbers.tolist(), "whole list": numbers.astype(int).tolist()}
    inputs = [lists[name] if name in lists else numbers.astype(name) for name in (kind, other)]
    together = each(STORE, ["t0", "t1"], inputs)
    assert (together is not None) == (kind == other or (kind in lists and other in lists))
    if together is not None:
        alone = [STORE.batch(context, rows).inputs for context, rows in zip(["t0", "t1"], inputs, strict=True)]
        assert torch.equal(together.inputs, torch.cat(alone))


def test_rows_with_scalings_of_their_own_are_joined_as_each_gets_them_alone() -> None:
    store = store_of(tasks=2)
    store.register(TaskSchema(key="scaled", inputs=7, outputs=3, scale=(2.0,) * 7, offset=(1.0,) * 7))
    store.register(TaskSchema(key="running", inputs=7, outputs=3, scaling="running"))
    learn(store, "running", np.random.default_rng(0).normal(5, 3, size=(9, 7)), [0] * 9)
    for contexts in (["t0", "scaled", "running"], ["running", "running"], ["scaled", "scaled"]):
        together = each(store, contexts, [ROWS] * len(contexts))
        alone = [store.batch(context, ROWS).inputs for context in contexts]
        assert torch.equal(together.inputs, torch.cat(alone))


def test_a_face_of_its_own_or_nobody_else_is_left_to_the_caller() -> None:
    store = store_of(tasks=2)
    store.register(TaskSchema(key="narrow", inputs=5, outputs=3))
    assert each(store, ["t0"], [ROWS]) is None
    assert each(store, [], []) is None
    assert each(store, ["t0", "narrow"], [ROWS, ROWS]) is None
    together = each(store, ["narrow", "narrow"], [[row[:5] for row in ROWS], [ROWS[0][:5]]])
    assert together.inputs.shape == (3, 7)
    assert not together.inputs[:, 5:].any()
    assert together.index is None


def test_true_and_false_are_one_and_zero() -> None:
    rows = [[True, False, True, False, True, False, True]]
    numbers = STORE.batch("t0", [[1, 0, 1, 0, 1, 0, 1]]).inputs
    for form in (rows, [[True, 0, 1, False, 1.0, 0, True]], np.asarray(rows), torch.tensor(rows)):
        assert torch.equal(STORE.batch("t0", form).inputs, numbers)
        assert torch.equal(STORE.batch_per_row(["t0"], form).inputs, numbers)
    together = each(STORE, ["t0", "t1"], [[[True, 0, 1, 0, 1, 0, 1]], ROWS])
    assert torch.equal(together.inputs[:1], numbers)
