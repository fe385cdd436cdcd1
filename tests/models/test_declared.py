"""Tasks that are declared as a composition of others: they bind it instead of a context of their own."""

from __future__ import annotations

import pytest
import torch

from experiments.plain import plain_config
from superposed import TaskSchema, WeightStore, evaluate, learn, seeded_secret
from superposed.config import MLPConfig, RehearsalConfig, validated
from superposed.errors import (
    CompositionNotSupported,
    ConfigError,
    ExpressionInvalid,
    TaskExists,
    TaskInUse,
    UnknownTask,
)
from tests.helpers.small_stores import data

HALF = "mix(a:0.5,b:0.5)"


def declared(family: str = "phase", **own: object) -> WeightStore:
    config = {
        "network": MLPConfig(inputs=8, hidden=(10, 12), outputs=3),
        "family": family,
        "rehearsal": RehearsalConfig(rows_per_task=50),
    }
    store = WeightStore(plain_config(**config), secret=seeded_secret(2))
    for key in ("a", "b"):
        store.register(TaskSchema(key=key, inputs=8, outputs=3))
    register(store, composition=HALF, **own)
    return store


def register(store: WeightStore, key: str = "c", **own: object) -> None:
    store.register(validated(TaskSchema, {"key": key, "inputs": 8, "outputs": 3} | own))


@pytest.mark.parametrize(("family", "text"), [("phase", HALF), ("phase", "a^0.5"), ("binary", HALF)])
def test_it_answers_as_its_composition_does(family: str, text: str) -> None:
    store = declared(family)
    register(store, "d", composition=text, labels=("x", "y", "z"))
    rows = data(5, 8)
    assert torch.equal(store.logits(store.batch("d", rows)), store.logits(store.batch(text, rows)))
    assert store.resolve("d").task.schema.labels == ("x", "y", "z")
    both = store.logits(store.batch_per_row(["a", "d"] * 2, rows[:4]))
    assert torch.allclose(both[1::2], store.logits(store.batch(text, rows[1:4:2])), atol=1e-6)


def test_what_it_learns_is_counted_and_kept_as_its_own() -> None:
    store = declared()
    learn(store, "a", data(4, 8), [0, 1, 2, 0])
    before = store.logits(store.batch(HALF, data(4, 8)))
    for _ in range(3):
        learn(store, "c", data(4, 8), [0, 1, 2, 0])
    assert not torch.equal(before, store.logits(store.batch(HALF, data(4, 8))))
    assert [store.tasks.get(key).updates for key in "abc"] == [1, 0, 3]
    assert [store.replay_buffer.rows_kept(key) for key in "abc"] == [4, 0, 12]
    evaluate(store, "c", data(4, 8), [0, 1, 2, 0])
    assert len(store.evaluations.of("c")) == 1
    drawn = store.draw(20)
    assert drawn is not None
    assert {part.text for part in drawn[0].parts} == {"a", "c"}
    again = WeightStore.from_bytes(store.to_bytes())
    assert again.digest() == store.digest()
    assert again.resolve("c").keys == {"a", "b", "c"}


def test_what_it_needs_stays_until_it_goes() -> None:
    store = declared()
    digest = store.digest()
    with pytest.raises(TaskInUse, match="composed"):
        store.delete("b")
    assert store.digest() == digest
    store.delete("c")
    store.delete("b")
    with pytest.raises(UnknownTask):
        register(store, composition=HALF)


@pytest.mark.parametrize(
    ("own", "error", "says"),
    [
        ({"composition": "mix(a:0.5,nobody:0.5)"}, UnknownTask, "no task"),
        ({"composition": "mix(a:0.5,c:0.5)"}, CompositionNotSupported, "by its key alone"),
        ({"composition": HALF, "outputs": 2}, CompositionNotSupported, "outputs"),
        ({"composition": HALF, "loss": "mse"}, CompositionNotSupported, "loss|mse"),
        ({"composition": "a"}, ConfigError, "mixture or a power"),
        ({"composition": "d^2"}, ConfigError, "of itself"),
        ({"composition": "mix("}, ExpressionInvalid, "not a context expression"),
        ({"composition": HALF, "group": "a"}, ConfigError, "not both"),
    ],
)
def test_what_is_no_composition(own: dict[str, object], error: type[Exception], says: str) -> None:
    store = declared()
    digest = store.digest()
    with pytest.raises(error, match=says):
        register(store, "d", **own)
    assert store.digest() == digest


def test_a_family_without_powers_refuses_one() -> None:
    with pytest.raises(CompositionNotSupported, match="no powers"):
        register(declared("binary"), "d", composition="a^0.5")


def test_it_is_addressed_by_its_key_alone_and_has_one_meaning() -> None:
    store = declared()
    for text in ("c^2", "mix(a:0.5,c:0.5)"):
        with pytest.raises(CompositionNotSupported, match="by its key alone"):
            store.resolve(text)
    register(store, composition="mix(a:1,b:1)")  # the same, written otherwise
    with pytest.raises(TaskExists):
        register(store, composition="mix(a:0.9,b:0.1)")
