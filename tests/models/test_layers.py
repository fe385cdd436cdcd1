from __future__ import annotations

import numpy as np
import pytest
import torch

from superposed import MLPConfig
from superposed.contexts import FAMILIES, Binding, Context, ContextSource, TaskId, family_named, seeded_secret
from superposed.errors import ConfigError
from superposed.nn import MLP
from superposed.nn.layers import SuperposedLinear
from tests.helpers import oracle

ALL = sorted(FAMILIES)


def layer_and_context(family: str, bias: str, *, real: bool = False) -> tuple[SuperposedLinear, torch.Tensor]:
    kind = family_named(family)
    layer = SuperposedLinear(
        7,
        5,
        kind,
        bias=bias,
        real_output=real,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,  # type: ignore[arg-type]
    )
    source = ContextSource(kind, {"layers.0": layer.bound_features}, oracle.SECRET)
    return layer, source.derive(Context(((TaskId("a"), 1.0, None),)), "layers.0")


def rows(width: int) -> torch.Tensor:
    return torch.randn(4, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("bias", ["bound", "shared"])
@pytest.mark.parametrize("family", [name for name in ALL if name != "complex"])
def test_a_real_layer_is_weight_times_context_times_input(family: str, bias: str) -> None:
    layer, context = layer_and_context(family, bias)
    x = rows(7).numpy()
    extended = np.concatenate([x, np.ones((4, 1))], 1) if bias == "bound" else x
    dense = oracle.dense(family, "a", layer.bound_features)
    padded = np.pad(extended, ((0, 0), (0, len(dense) - extended.shape[1])))
    expected = padded @ dense.T @ layer.weight.detach().numpy().T
    if layer.bias is not None:
        expected = expected + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(rows(7), Binding(context)).detach(), expected, atol=1e-12)


@pytest.mark.parametrize("bias", ["bound", "shared"])
@pytest.mark.parametrize("real", [True, False])
def test_a_complex_layer_is_complex_arithmetic_in_one_real_product(bias: str, real: bool) -> None:
    layer, context = layer_and_context("complex", bias, real=real)
    x = rows(14)
    numbers = x[:, :7].numpy() + 1j * x[:, 7:].numpy()
    if bias == "bound":
        numbers = np.concatenate([numbers, np.ones((4, 1))], 1)
    weight = layer.weight.detach().numpy()
    product = (numbers * np.exp(1j * oracle.phases("a", layer.bound_features))) @ (weight[0] + 1j * weight[1]).T
    if layer.bias is not None:
        product = product + layer.bias.detach().numpy()
    expected = product.real if real else np.concatenate([product.real, product.imag], 1)
    np.testing.assert_allclose(layer(x, Binding(context)).detach(), expected, atol=1e-12)


@pytest.mark.parametrize("bias", ["bound", "shared"])
@pytest.mark.parametrize("family", ALL)
def test_a_retrieved_layer_is_an_ordinary_one(family: str, bias: str) -> None:
    layer, context = layer_and_context(family, bias)
    x = rows(7 * layer.family.components)
    weight, offset = layer.retrieve(context)
    torch.testing.assert_close(x @ weight.T + offset, layer(x, Binding(context)))


@pytest.mark.parametrize("family", ALL)
def test_gradients_reach_the_shared_weights_and_are_right(family: str) -> None:
    layer, context = layer_and_context(family, "bound")
    contexts = torch.stack([context, context.flip(-1) if family == "binary" else context])
    binding = Binding(contexts, torch.tensor([0, 1, 1, 0]))
    x = rows(7 * layer.family.components).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, (x, binding)), (x, layer.weight)
    )


def test_initial_weights_are_uniform_and_drawn_from_the_generator() -> None:
    def layer(seed: int) -> SuperposedLinear:
        generator = torch.Generator().manual_seed(seed)
        return SuperposedLinear(399, 50, family_named("phase"), generator=generator, gain=2.0)

    bound = 2 / 400**0.5
    weight = layer(3).weight
    assert float(weight.detach().abs().max()) <= bound
    assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert torch.equal(weight, layer(3).weight)
    assert not torch.equal(weight, layer(4).weight)


class TestMLP:
    def network(self, family: str, **changes: object) -> MLP:
        config = MLPConfig(expansion=1, activation="relu", inputs=6, hidden=(8, 5), outputs=3).replace(**changes)
        return MLP(config, family_named(family), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def bindings(self, network: MLP, keys: str) -> dict[str, Binding]:
        features = {name: layer.bound_features for name, layer in network.superposed_layers().items()}
        source = ContextSource(network.family, features, seeded_secret(2))
        index = torch.arange(len(keys))
        return {
            name: Binding(
                torch.stack([source.derive(Context(((TaskId(key), 1.0, None),)), name) for key in keys]), index
            )
            for name in source.features
        }

    @pytest.mark.parametrize("family", ALL)
    def test_every_layer_binds_with_its_own_context(self, family: str) -> None:
        network = self.network(family)
        x = rows(6)[:1].expand(3, 6)
        logits = network(x, self.bindings(network, "aab")).detach()
        assert logits.shape == (3, 3)
        torch.testing.assert_close(logits[0], logits[1])
        assert float((logits[0] - logits[2]).abs().max()) > 1e-2
        for name in network.superposed_layers():
            changed = self.bindings(network, "aaa") | {name: self.bindings(network, "aab")[name]}
            other = network(x, changed).detach()
            assert float((other[0] - other[2]).abs().max()) > 1e-4, name

    def test_hidden_layers_are_normalised_before_binding(self) -> None:
        seen: dict[str, torch.Tensor] = {}
        network = self.network("phase")
        network(rows(6), self.bindings(network, "aabb"), lambda name, _, signal: seen.update({name: signal.detach()}))
        assert set(seen) == {"layers.0", "layers.1", "layers.2"}
        for name in ("layers.1", "layers.2"):
            torch.testing.assert_close(seen[name].mean(1), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(seen["layers.0"], rows(6))
        plain = self.network("phase", normalisation="none")
        plain(rows(6), self.bindings(plain, "aabb"), lambda name, _, signal: seen.update({name: signal.detach()}))
        assert float(seen["layers.1"].min()) == 0.0  # a ReLU's own output

    def test_a_layer_without_units_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no units"):
            MLP(MLPConfig(hidden=(4, 0)), family_named("phase"))
