"""Convolutions and any other network, superposed: each row as alone, each alone as an ordinary network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.datasets import sklearn_dataset
from experiments.plain import plain_config
from superposed import TaskSchema, WeightStore, evaluate, learn, seeded_secret
from superposed.analysis.capacity import capacity
from superposed.analysis.retrieval import RetrievedModel, retrieve_model
from superposed.config import ConvNetConfig, ModuleConfig, ResNetConfig
from superposed.contexts import Binding, Context, ContextSource, TaskId, family_named
from superposed.errors import ConfigError
from superposed.nn import convnet, resnet18
from superposed.nn.layers import SuperposedConv2d, SuperposedModule
from tests.helpers import oracle

REAL = ("phase", "binary", "cyclic", "rotation")


def contexts_of(family: str, features: int, count: int) -> torch.Tensor:
    source = ContextSource(family_named(family), {"l": features}, oracle.SECRET)
    ids = [Context(((TaskId(f"t{number}"), 1.0, None),)) for number in range(count)]
    return torch.stack([source.derive(one, "l") for one in ids])


def dense(family: str, context: torch.Tensor, width: int) -> torch.Tensor:
    """C(k) as a matrix, column by column."""
    return family_named(family).bind(torch.eye(width, dtype=torch.float64), context).T


@pytest.mark.parametrize("family", REAL)
@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (0, 0)), ((2, 1), (1, 2))])
@pytest.mark.parametrize("outputs", [3, 40])  # fewer and more than there are places
def test_a_convolution_binds_every_patch(
    family: str, stride: tuple[int, int], padding: tuple[int, int], outputs: int
) -> None:
    """Against a loop over places with dense matrices: W (C [patch, 1])."""
    conv = SuperposedConv2d(
        2, outputs, (3, 2), family_named(family), stride=stride, padding=padding, dtype=torch.float64
    )
    torch.nn.init.uniform_(conv.patches.weight, -1.0, 1.0, generator=torch.Generator().manual_seed(1))
    contexts = contexts_of(family, conv.patches.bound_features, 3)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 2, 6, 5)))
    slots = torch.tensor([2, 0, 1, 2])
    mixed = conv(x, Binding(contexts, slots))
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    width = conv.patches.width
    for row in range(4):
        matrix = dense(family, contexts[slots[row]], width)
        for i in range(mixed.shape[2]):
            for j in range(mixed.shape[3]):
                top, left = i * stride[0], j * stride[1]
                patch = padded[row, :, top : top + 3, left : left + 2].reshape(-1)
                bound = torch.zeros(width, dtype=torch.float64)
                bound[: len(patch)], bound[len(patch)] = patch, 1.0
                expected = conv.patches.weight @ (matrix @ bound)
                assert torch.allclose(mixed[row, :, i, j], expected, atol=1e-10)
        alone = conv(x[row : row + 1], Binding(contexts[slots[row]]))
        assert torch.allclose(alone[0], mixed[row], atol=1e-10)


def test_complex_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="real features"):
        SuperposedConv2d(1, 1, (3, 3), family_named("complex"))
    with pytest.raises(ConfigError, match="real features"):
        SuperposedModule(nn.Sequential(nn.Linear(2, 2)), family_named("complex"), (2,))


class TestWrapping:
    def test_under_the_identity_it_is_the_network_that_it_was(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 7), nn.Tanh(), nn.Linear(7, 3)
        )
        x = torch.randn(6, 25)
        before = net(x.view(6, 1, 5, 5))
        wrapped = SuperposedModule(net, family_named("binary"), (1, 5, 5))
        features = {name: layer.bound_features for name, layer in wrapped.superposed_layers().items()}
        assert features == {"0": 10, "3": 101, "5": 8}
        ones = {name: Binding(torch.ones(count)) for name, count in features.items()}
        assert torch.allclose(wrapped(x, ones), before, atol=1e-5)

    @pytest.mark.parametrize(
        "layer",
        [
            nn.BatchNorm2d(1),
            nn.Conv1d(1, 1, 1),
            nn.Conv2d(2, 2, 1, groups=2),
            nn.Conv2d(1, 1, 3, dilation=2),
            nn.Conv2d(1, 1, 3, padding="same"),
            nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
            nn.Dropout(),
            nn.InstanceNorm1d(2, track_running_stats=True),
            nn.Embedding(3, 3),
            nn.LSTM(2, 2),
        ],
    )
    def test_what_cannot_be_superposed_is_named(self, layer: nn.Module) -> None:
        with pytest.raises(ConfigError):
            SuperposedModule(nn.Sequential(nn.Linear(2, 2), layer), family_named("phase"), (2,))

    def test_weights_in_two_places_are_refused(self) -> None:
        layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
        other.weight = layer.weight
        for net in (nn.Sequential(layer, nn.ReLU(), layer), nn.Sequential(layer, nn.ReLU(), other)):
            with pytest.raises(ConfigError, match="two places"):
                SuperposedModule(net, family_named("phase"), (2,))

    @pytest.mark.parametrize("shape", [(3, 4), (5,)])
    def test_rows_that_it_cannot_take_are_found_at_once(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match="does not run"):
            SuperposedModule(nn.Sequential(nn.Linear(4, 2)), family_named("phase"), shape)

    def test_it_stays_in_evaluation_mode(self) -> None:
        net = nn.Sequential(nn.Linear(2, 2), nn.RReLU())
        wrapped = SuperposedModule(net, family_named("phase"), (2,)).train()
        assert not any(module.training for module in wrapped.modules())

    @pytest.mark.parametrize("way", ["subclass", "hooks", "parametrisation"])
    def test_a_layer_with_ways_of_its_own(self, way: str) -> None:
        layer: nn.Linear = Doubled(4, 2) if way == "subclass" else nn.Linear(4, 2)
        if way == "hooks":
            layer.register_forward_hook(lambda _, __, answer: 2 * answer)
        if way == "parametrisation":
            nn.utils.parametrizations.weight_norm(layer)
        with pytest.raises(ConfigError, match="of its own"):
            SuperposedModule(nn.Sequential(layer), family_named("phase"), (4,))

    @pytest.mark.parametrize("family", REAL)
    def test_rows_that_meet_each_other(self, family: str) -> None:
        """Rows regrouped between layers, and answers that depend on the batch's mean."""
        for network, reason in ((Regrouped(), "does not run"), (Centred(), "rows beside it")):
            with pytest.raises(ConfigError, match=reason):
                SuperposedModule(network, family_named(family), (8, 8))

    def test_nothing_to_superpose(self) -> None:
        with pytest.raises(ConfigError, match="no linear"):
            SuperposedModule(nn.Sequential(nn.ReLU()), family_named("phase"), (2,))


class Regrouped(nn.Module):
    """Answers a row by its eight parts, each as a row of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.whole = nn.Linear(8, 16), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.whole(F.relu(self.parts(x.reshape(-1, 8))).reshape(len(x), -1))
        return answer


class Centred(nn.Module):
    """Takes off the mean of whatever rows are there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1)
        answer: torch.Tensor = self.layer(rows - rows.mean(0))
        return answer


class Doubled(nn.Linear):
    """A linear layer that does more than one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def two_layers() -> nn.Module:
    """Build the network that `ModuleConfig` names below."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.LayerNorm(24), nn.Linear(24, 10))


class WithBuffer(nn.Module):
    """A fixed random projection, a plain parameter, a frozen one, and a linear layer."""

    def __init__(self, projection: torch.Tensor) -> None:
        super().__init__()
        self.projection: torch.Tensor
        self.register_buffer("projection", projection)
        self.noise: torch.Tensor
        self.register_buffer("noise", torch.randn(16), persistent=False)
        self.again = nn.Module()
        self.again.register_buffer("noise", self.noise)
        self.unsteady = nn.RReLU()
        self.gain = nn.Parameter(torch.ones(16))
        self.shift = nn.Parameter(torch.randn(16), requires_grad=False)
        self.layer = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = x.flatten(1) @ self.projection * self.gain + self.shift + self.noise
        answer: torch.Tensor = self.layer(self.unsteady(inner))
        return answer


def with_buffer() -> nn.Module:
    return WithBuffer(torch.randn(64, 16))


def with_any_buffer() -> nn.Module:
    return WithBuffer(torch.from_numpy(np.random.default_rng().normal(size=(64, 16))).float())


class Forgetful(nn.Module):
    """Drops features at random, by a function rather than a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(F.dropout(x.flatten(1)))
        return answer


def needs_other_rows() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))


def no_module() -> int:
    return 3


CONVNET = ConvNetConfig(input_shape=(1, 8, 8), channels=(8, 16), hidden=(32,))
RESNET = ResNetConfig(input_shape=(1, 8, 8), width=8)
NETWORKS = {
    "convnet": CONVNET,
    "resnet18": RESNET,
    "module": ModuleConfig(factory="tests.models.test_networks:two_layers", input_shape=(8, 8), outputs=10),
}


# The same networks, as anybody would make them.
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "convnet": lambda: convnet(CONVNET),
    "resnet18": lambda: resnet18(RESNET),
    "module": two_layers,
}


def new_store(kind: str, family: str = "phase") -> WeightStore:
    config = {
        "network": NETWORKS[kind],
        "family": family,
        "optimizer": {"name": "adam", "learning_rate": 1e-3 if kind == "resnet18" else 2e-3},
    }
    store = WeightStore(plain_config(**config), secret=seeded_secret(3))
    for key in ("a", "b"):
        store.register(TaskSchema(key=key, inputs=64, outputs=10, scale=(16.0,) * 64))
    return store


def answered(model: RetrievedModel, plain: nn.Module, x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the answers of an ordinary network with a retrieved model's weights, as `load_into` says."""
    rows = ((x - model.tensors["input.offset"]) / model.tensors["input.scale"]).float()
    with torch.inference_mode():
        answer: torch.Tensor = model.load_into(plain)(rows.view(len(x), *shape))
        return answer


@pytest.mark.parametrize("kind", sorted(NETWORKS))
class TestStores:
    def test_two_tasks_are_learned_and_kept(self, kind: str) -> None:
        data = sklearn_dataset("digits")
        store = new_store(kind)
        other = np.random.default_rng(1).permutation(10)  # the same digits, other labels
        for key, labels in (("a", data.train_y), ("b", other[data.train_y])):
            for start in range(0, (100 if kind == "resnet18" else 60) * 32, 32):
                rows = np.arange(start, start + 32) % len(data.train_x)
                learn(store, key, data.train_x[rows], labels[rows].tolist())
        for key, labels in (("a", data.test_y), ("b", other[data.test_y])):
            accuracy = evaluate(store, key, data.test_x, labels.tolist()).accuracy
            assert accuracy is not None
            assert accuracy > 0.55
        assert {layer.name for layer in capacity(store).layers} == set(store.contexts.source.features)

    def test_mixed_rows_are_answered_as_alone(self, kind: str) -> None:
        store = new_store(kind)
        x = np.random.default_rng(0).normal(size=(3, 64)) * 16
        contexts = ["a", "mix(a:0.5,b:0.5)", "b"]
        mixed = store.logits(store.batch_per_row(contexts, list(x)))
        for row, context in enumerate(contexts):
            alone = store.logits(store.batch(context, x[row : row + 1]))
            assert torch.allclose(mixed[row : row + 1], alone, atol=1e-4)

    def test_it_comes_back_from_its_file(self, kind: str) -> None:
        store = new_store(kind)
        learn(store, "a", np.random.default_rng(0).normal(size=(4, 64)), [1, 2, 3, 4])
        again = WeightStore.from_bytes(store.to_bytes())
        assert again.digest() == store.digest()
        assert again.config == store.config
        assert new_store(kind).digest() == new_store(kind).digest()  # the secret decides the first weights

    def test_a_model_taken_out_answers_as_the_store_does(self, kind: str) -> None:
        store = new_store(kind)
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 64)) * 16)
        learn(store, "a", x, [1, 2, 3, 4, 5])
        for context in ("a", "mix(a:0.5,b^0.5:0.5)"):
            model = RetrievedModel.from_bytes(retrieve_model(store, context).to_bytes())
            assert model.metadata["network"] == store.config.network.model_dump(mode="json", exclude={"factory"})
            assert (model.metadata["inputs"], model.metadata["outputs"]) == (64, 10)
            answer = answered(model, PLAIN[kind](), x, NETWORKS[kind].input_shape)
            torch.testing.assert_close(answer, store.logits(store.batch(context, x)), rtol=1e-4, atol=1e-4)

    def test_a_model_taken_out_needs_its_own_architecture(self, kind: str) -> None:
        model, other = retrieve_model(new_store(kind), "a"), nn.Sequential(nn.Conv2d(1, 8, 3, bias=False))
        with pytest.raises(ConfigError, match="another architecture"):
            model.load_into(other)
        assert other[0].bias is None
        with pytest.raises(ConfigError, match="load_into"):
            model(torch.zeros(1, 64))


@pytest.mark.parametrize(
    "factory", ["nowhere:x", "tests.models.test_networks:missing", "tests.models.test_networks:no_module"]
)
def test_a_factory_must_make_a_network(factory: str) -> None:
    config = plain_config(network=ModuleConfig(factory=factory, input_shape=(8, 8), outputs=10))
    with pytest.raises(ConfigError, match="factory"):
        WeightStore(config, secret=seeded_secret(1))


def module_store(factory: str) -> WeightStore:
    network = ModuleConfig(factory=f"tests.models.test_networks:{factory}", input_shape=(8, 8), outputs=10)
    store = WeightStore(plain_config(network=network), secret=seeded_secret(4))
    store.register(TaskSchema(key="a", inputs=64, outputs=10))
    return store


def test_what_is_no_weight_of_a_layer_comes_back_too() -> None:
    """Buffers, plain parameters that learned, and frozen ones."""
    store = module_store("with_buffer")
    x = np.random.default_rng(0).normal(size=(8, 64))
    learn(store, "a", x, list(range(8)))
    again = WeightStore.from_bytes(store.to_bytes())
    assert torch.equal(again.logits(again.batch("a", x)), store.logits(store.batch("a", x)))
    assert not torch.equal(dict(again.network.named_parameters())["module.gain"], torch.ones(16))
    model = retrieve_model(store, "a")
    RetrievedModel.from_bytes(model.to_bytes())
    learned = {name: tensor.clone() for name, tensor in model.tensors.items()}
    answer = answered(model, with_buffer(), torch.from_numpy(x), (8, 8))
    torch.testing.assert_close(answer, store.logits(store.batch("a", x)), rtol=1e-4, atol=1e-4)
    learn(store, "a", x, list(range(8)))
    assert all(torch.equal(model.tensors[name], tensor) for name, tensor in learned.items())


def test_a_module_keeps_its_own_dtype() -> None:
    model = retrieve_model(new_store("module"), "a")
    plain = model.load_into(two_layers().double())
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float64}
    assert torch.equal(plain[1].weight.float(), model.tensors["network.1.weight"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("with_any_buffer", "other buffers each time"),
        ("Forgetful", "differently each time"),
        ("needs_other_rows", "does not answer such rows"),
    ],
)
def test_a_module_that_a_store_could_not_rely_on(factory: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        module_store(factory)


def test_a_module_must_answer_as_configured() -> None:
    network = ModuleConfig(factory="tests.models.test_networks:two_layers", input_shape=(8, 8), outputs=9)
    with pytest.raises(ConfigError, match="does not answer"):
        WeightStore(plain_config(network=network), secret=seeded_secret(1))
