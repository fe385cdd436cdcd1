"""Groups: the first layers bind the group's context, the last ones a task's own."""

from __future__ import annotations

import pytest
import torch

from experiments.plain import plain_config
from superposed import TaskSchema, WeightStore, learn, seeded_secret
from superposed.config import MLPConfig, validated
from superposed.contexts import FAMILIES
from superposed.errors import (
    CompositionNotSupported,
    ConfigError,
    ExpressionInvalid,
    ShapeError,
    TaskInUse,
    UnknownTask,
)
from tests.helpers.small_stores import data

LAYERS = ("layers.0", "layers.1", "layers.2", "layers.3")


def grouped(family: str = "phase", **own: object) -> WeightStore:
    network = MLPConfig(inputs=8, hidden=(10, 12, 14), outputs=3)
    store = WeightStore(plain_config(network=network, family=family), secret=seeded_secret(2))
    store.register(TaskSchema(key="digits", inputs=8, outputs=3))
    for key in ("u1", "u2"):
        store.register(validated(TaskSchema, {"key": key, "inputs": 8, "outputs": 3, "group": "digits"} | own))
    return store


def layer_contexts(store: WeightStore, text: str) -> dict[str, torch.Tensor]:
    context = store.resolve(text).context
    return {name: store.contexts.source.derive(context, name) for name in LAYERS}


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(("own", "shared"), [({}, 2), ({"own_layers": 1}, 3), ({"own_layers": 4}, 0)])
def test_where_a_context_is_the_groups_and_where_it_is_the_tasks_own(
    family: str, own: dict[str, int], shared: int
) -> None:
    store = grouped(family, **own)
    group, one, two = (layer_contexts(store, text) for text in ("digits", "u1", "u2"))
    # What the key would bind if it had no group.
    alone = WeightStore(store.config, secret=store.secret)
    alone.register(TaskSchema(key="u1", inputs=8, outputs=3))
    lonely = layer_contexts(alone, "u1")
    for place, name in enumerate(LAYERS):
        if place < shared:
            assert torch.equal(one[name], group[name])
            assert torch.equal(two[name], group[name])
        else:
            assert torch.equal(one[name], lonely[name])
            assert not torch.equal(two[name], one[name])


@pytest.mark.parametrize("family", ["phase", "binary", "complex", "cyclic"])
def test_a_mixture_of_members_keeps_the_groups_layers(family: str) -> None:
    store = grouped(family)
    group, mixed = layer_contexts(store, "digits"), layer_contexts(store, "mix(u1:0.5,u2:0.5)")
    for place, name in enumerate(LAYERS):
        same = torch.allclose(mixed[name], group[name], atol=1e-12)
        assert same is (place < 2)


def test_the_group_may_be_named() -> None:
    store = grouped()
    assert store.resolve("digits/u1").context == store.resolve("u1").context
    assert store.resolve({"task": "digits/u1"}).is_single
    assert store.resolve("mix(digits/u1:0.3,u2:0.7)^0.5").context == store.resolve("mix(u1:0.3,u2:0.7)^0.5").context
    for wrong in ("u2/u1", "digits/digits", "nobody/u1"):
        with pytest.raises(UnknownTask, match="in this group"):
            store.resolve(wrong)
    for text in ("digits/", "/u1", "digits/u1/u2", "auto/u1"):
        with pytest.raises(ExpressionInvalid):
            store.resolve(text)


def test_mixed_batches_bind_each_row_as_alone() -> None:
    store = grouped()
    x = data(3, 8)
    mixed = store.logits(store.batch_per_row(["u1", "digits", "digits/u2"], list(x)))
    alone = [store.logits(store.batch(key, x[place : place + 1])) for place, key in enumerate(("u1", "digits", "u2"))]
    assert torch.allclose(mixed, torch.cat(alone), atol=1e-5)


def test_shared_layers_answer_a_member_as_they_answer_its_group() -> None:
    store = grouped(own_layers=1)
    x = data(32, 8)
    inner = {}

    def observe(name: str, _: object, signal: torch.Tensor) -> None:
        inner[name] = signal.clone()

    with torch.inference_mode():
        store.network(torch.from_numpy(x).float(), store.bindings(store.batch("digits", x)), observe)
        under_group = inner["layers.3"]
        store.network(torch.from_numpy(x).float(), store.bindings(store.batch("u1", x)), observe)
    assert torch.equal(inner["layers.3"], under_group)


def test_a_store_keeps_its_groups() -> None:
    store = grouped()
    learn(store, "u1", data(4, 8), [0, 1, 2, 0])
    again = WeightStore.from_bytes(store.to_bytes())
    assert again.digest() == store.digest()
    assert again.resolve("u1").context == store.resolve("u1").context
    assert again.tasks.get("u2").schema.group == "digits"


def test_a_group_is_not_deleted_while_it_has_tasks() -> None:
    store = grouped()
    digest = store.digest()
    with pytest.raises(TaskInUse, match="2 tasks"):
        store.delete("digits")
    assert store.digest() == digest
    before = store.resolve("u1").context
    for key in ("u1", "u2", "digits"):
        store.delete(key)
    store.register(TaskSchema(key="digits", inputs=8, outputs=3))
    store.register(TaskSchema(key="u1", inputs=8, outputs=3, group="digits"))
    after = store.resolve("u1").context
    assert after != before
    source = store.contexts.source
    for name in LAYERS:  # neither the group's old context nor the task's own comes back
        assert not torch.equal(source.derive(after, name), source.derive(before, name))


def test_what_cannot_be_a_group() -> None:
    store = grouped()
    with pytest.raises(CompositionNotSupported, match="in digits"):
        store.register(TaskSchema(key="v", inputs=8, outputs=3, group="u1"))
    store.register(TaskSchema(key="power", inputs=8, outputs=3, composition="digits^0.5"))
    with pytest.raises(CompositionNotSupported, match=r"digits\^0.5"):
        store.register(TaskSchema(key="v", inputs=8, outputs=3, group="power"))
    with pytest.raises(ShapeError, match="4 at most"):
        store.register(TaskSchema(key="v", inputs=8, outputs=3, group="digits", own_layers=5))
    for wrong in ({"own_layers": 2}, {"group": "v"}, {"group": "digits", "own_layers": 0}, {"group": "mix"}):
        with pytest.raises((ConfigError, ExpressionInvalid)):
            validated(TaskSchema, {"key": "v", "inputs": 8, "outputs": 3} | wrong)


def test_a_store_without_groups_has_the_digest_it_always_had() -> None:
    """No field of groups is written where there are none: digests and snapshots of before stay good."""
    store = WeightStore(plain_config(network={"inputs": 4, "hidden": [5], "outputs": 2}), secret=seeded_secret(1))
    store.register(TaskSchema(key="a", inputs=4, outputs=2))
    [task] = store.tasks.to_json()["tasks"]
    assert not {"group", "own_layers", "group_generation"} & ({*task} | {*task["schema"]})
