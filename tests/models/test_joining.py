"""Joining a group: a new member starts from what the group's members have learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from superposed import StoreConfig, TaskSchema, WeightStore, learn, seeded_secret
from superposed.analysis.retrieval import retrieve_model
from superposed.config import MLPConfig
from superposed.learning.groups import register
from superposed.learning.online import evaluate

LABELS = ("red", "green", "blue")


def store_of(family: str = "phase", expansion: int = 16) -> WeightStore:
    network = MLPConfig(inputs=6, hidden=(32,), outputs=4, expansion=expansion)
    return WeightStore(StoreConfig(network=network, family=family), secret=seeded_secret(3))  # type: ignore[arg-type]  # a parameter


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 6)).astype(np.float32)
    return x, [LABELS[place] for place in x[:, :3].argmax(1)]


def member(key: str, labels: tuple[str, ...] = LABELS, **schema: object) -> TaskSchema:
    return TaskSchema.model_validate(
        {"key": key, "inputs": 6, "outputs": len(labels), "labels": labels, "group": "colours"} | schema
    )


def teach(store: WeightStore, key: str, updates: int = 30) -> None:
    for number in range(updates):
        learn(store, key, *rows(16, number))


@pytest.mark.parametrize("family", ["phase", "binary", "cyclic"])
def test_register_member_starts_at_mean_of_members(family: str) -> None:
    """The mean is computed here from the members' exported models, label by label."""
    store = store_of(family)
    orders = {"u1": LABELS, "u2": LABELS[::-1], "u3": ("green", "white")}
    for key, labels in orders.items():
        register(store, member(key, labels))
        for number in range(10):
            x, y = rows(16, number)
            own = [place for place, label in enumerate(y) if label in labels]
            learn(store, key, x[own], [y[place] for place in own])
    models = {key: retrieve_model(store, key).tensors for key in orders}
    state, new = register(store, member("new", ("white", "blue", "green", "grey")))
    assert (new, state.started, state.updates, state.schema.own_layers) == (True, True, 0, 1)
    started = retrieve_model(store, "new").tensors
    for place, label in enumerate(state.schema.labels or ()):
        known = [
            torch.cat([models[key]["layers.1.weight"], models[key]["layers.1.bias"][:, None]], 1)[at]
            for key, labels in orders.items()
            for at, one in enumerate(labels)
            if one == label
        ]
        own = torch.cat([started["layers.1.weight"][place], started["layers.1.bias"][place][None]])
        expected = torch.stack(known).mean(0) if known else torch.zeros(33)
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_register_member_answers_like_group_and_improves() -> None:
    store = store_of()
    for key in ("u1", "u2", "u3"):
        register(store, member(key))
        teach(store, key)
    x, y = rows(400, 99)
    others = [float(evaluate(store, key, x, y).accuracy or 0) for key in ("u1", "u2", "u3")]
    register(store, member("new", LABELS[::-1]))
    before = float(evaluate(store, "new", x, y).accuracy or 0)
    assert before > np.mean(others) - 0.03
    after = [float(evaluate(store, key, x, y).accuracy or 0) for key in ("u1", "u2", "u3")]
    assert min(np.subtract(after, others)) > -0.03  # the others answer as before
    first = learn(store, "new", *rows(16, 5))
    assert (first.accuracy or 0) > 0.7  # before it learned its first rows
    teach(store, "new", 10)
    assert float(evaluate(store, "new", x, y).accuracy or 0) >= before - 0.01


def test_register_member_without_taught_members_starts_untaught() -> None:
    store = store_of()
    register(store, member("u1"))
    state, _ = register(store, member("u2"))
    assert not state.started
    assert torch.equal(store.answers(store.batch("u2", rows(3)[0])), torch.zeros(3, 4))
    teach(store, "u1", 2)
    for schema in (
        member("words", ("a", "b")),
        member("numbers", (1, 2, 3)),  # type: ignore[arg-type]  # labels of another type
        member("deep", own_layers=2),
        TaskSchema(key="value", inputs=6, outputs=3, loss="mse", group="colours"),
        TaskSchema(key="alone", inputs=6, outputs=3),
    ):
        digest = {name: tensor.clone() for name, tensor in store.state().items()}
        assert not register(store, schema)[0].started
        assert all(torch.equal(digest[name], tensor) for name, tensor in store.state().items())


def test_register_first_member_makes_the_group_in_one_change() -> None:
    store = store_of()
    state, new = register(store, member("u1"))
    assert new
    assert store.sequence == 1
    group = store.tasks.get("colours")
    assert (group.schema.group, group.schema.labels, group.schema.inputs) == (None, None, 6)
    assert register(store, member("u1")) == (state, False)
    teach(store, "u1", 3)
    register(store, member("u2"))
    again = WeightStore.from_bytes(store.to_bytes())
    assert again.digest() == store.digest()
    assert again.tasks.get("u2").started
    learn(again, "u2", *rows(8))
    learn(store, "u2", *rows(8))
    assert again.digest() == store.digest()


def test_own_layers_default_to_the_expanded_output_layer() -> None:
    for expansion, expected in ((16, 1), (1, 1)):
        state, _ = register(store_of(expansion=expansion), member("u1"))
        assert state.schema.own_layers == expected
    network = MLPConfig(inputs=6, hidden=(8, 8, 8), outputs=4, expansion=1)
    store = WeightStore(StoreConfig(network=network))
    assert register(store, member("u1"))[0].schema.own_layers == 2


def test_register_starts_from_the_members_that_joined_last() -> None:
    store = store_of(expansion=2)
    for number in range(66):
        register(store, member(f"u{number}", LABELS if number < 2 else ("white", "grey", "black")))
    for number in range(66):
        labels = [*(store.tasks.get(f"u{number}").schema.labels or ()), "red" if number < 2 else "white"]
        x = rows(4, number)[0]
        learn(store, f"u{number}", x, labels, steps=1)
    assert not register(store, member("late"))[0].started  # those with its labels joined first
    assert register(store, member("other", ("grey", "red")))[0].started
