"""One contract for every family, against a dense oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from superposed.contexts import (
    FAMILIES,
    Context,
    ContextSource,
    ContextTable,
    Stream,
    TaskId,
    family_named,
    flatten,
    parse,
    seeded_secret,
)
from superposed.contexts.rotation import RotationGenerator
from superposed.errors import CapacityExceeded, CompositionNotSupported, ConfigError, ShapeError
from tests.helpers import oracle

FEATURES = 13  # odd, so that pairing families pad
ALL = sorted(FAMILIES)
POWERED = [name for name in ALL if name != "binary"]
IDS = {key: TaskId(key) for key in "abc"}


def source(family: str, features: int = FEATURES) -> ContextSource:
    return ContextSource(family_named(family), {"layers.0": features}, oracle.SECRET)


def context(text: str) -> Context:
    return Context.from_leaves(flatten(parse(text)), IDS)


def derive(family: str, text: str, features: int = FEATURES) -> torch.Tensor:
    return source(family, features).derive(context(text), "layers.0")


def matrix(family: str, text: str, features: int = FEATURES) -> np.ndarray:
    """The matrix that bind applies, column by column."""
    kind = family_named(family)
    eye = torch.eye(kind.width(features), dtype=torch.float64)
    return kind.bind(eye, derive(family, text, features)).T.numpy()


def rows(family: str, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, family_named(family).width(FEATURES), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("family", ALL)
class TestContract:
    def test_bind_is_the_dense_matrix(self, family: str) -> None:
        x = rows(family, 7)
        expected = x.numpy() @ oracle.dense(family, "a", FEATURES).T
        np.testing.assert_allclose(family_named(family).bind(x, derive(family, "a")), expected, atol=1e-12)

    def test_unbind_undoes_bind(self, family: str) -> None:
        kind, x, c = family_named(family), rows(family, 7), derive(family, "a")
        np.testing.assert_allclose(kind.unbind(kind.bind(x, c), c), x, atol=1e-12)
        assert float((kind.bind(x, c) - x).abs().max()) > 0.1

    def test_a_single_vector_binds_as_a_batch_of_one(self, family: str) -> None:
        kind, x, c = family_named(family), rows(family, 1), derive(family, "a")
        np.testing.assert_allclose(kind.bind(x[0], c), kind.bind(x, c)[0], atol=1e-15)

    def test_a_mixed_batch_binds_every_row_with_its_own_context(self, family: str) -> None:
        kind, x = family_named(family), rows(family, 9)
        contexts = torch.stack([derive(family, key) for key in "abc"])
        index = torch.tensor([2, 0, 1, 1, 2, 0, 0, 2, 1])
        for operation in (kind.bind, kind.unbind):
            alone = torch.stack([operation(x[row], contexts[place]) for row, place in enumerate(index)])
            np.testing.assert_allclose(operation(x, contexts, index), alone, atol=1e-12)

    def test_every_context_is_orthogonal(self, family: str) -> None:
        texts = ["a", "mix(a:0.7,b:0.3)"]
        if family != "binary":
            texts += ["a^1.25", "a^-3.7", "mix(a:0.5,b^2:0.3,c^0.1:0.2)", "mix(a:0.5,mix(b:0.5,c:0.5)^2:0.5)"]
        for text in texts:
            c = matrix(family, text)
            np.testing.assert_allclose(c @ c.T, np.eye(len(c)), atol=1e-10, err_msg=text)
            np.testing.assert_allclose(np.linalg.norm(matrix(family, text), 2), 1, atol=1e-10)

    def test_contexts_of_different_keys_are_nearly_orthogonal(self, family: str) -> None:
        a, b = matrix(family, "a", 400), matrix(family, "b", 400)
        overlap = np.trace(a.T @ b) / len(a)
        assert abs(overlap) < 5 / np.sqrt(len(a))
        assert np.trace(a.T @ a) / len(a) == pytest.approx(1)

    def test_response_energy_is_the_mean_over_random_contexts(self, family: str) -> None:
        kind, features = family_named(family), 6
        width = kind.width(features)
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(2, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(3, width, generator=generator, dtype=torch.float64)
        origin = source(family, features)
        drawn = [
            (kind.bind(x, origin.derive(Context(((TaskId(f"key{n}"), 1.0, None),)), "layers.0")) @ weight.T) ** 2
            for n in range(4000)
        ]
        measured, predicted = torch.stack(drawn).mean(0), kind.response_energy(weight, x)
        np.testing.assert_allclose(measured, predicted, rtol=0.12)

    def test_superpose_and_retrieve_follow_the_equations(self, family: str) -> None:
        kind, width = family_named(family), family_named(family).width(FEATURES)
        weights = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        contexts = torch.stack([derive(family, key) for key in "ab"])
        dense = [oracle.dense(family, key, FEATURES) for key in "ab"]
        store = sum(weight.numpy() @ np.linalg.inv(c) for weight, c in zip(weights, dense, strict=True))
        np.testing.assert_allclose(kind.superpose(weights, contexts), store, atol=1e-10)
        np.testing.assert_allclose(kind.retrieve(torch.from_numpy(store), contexts[1]), store @ dense[1], atol=1e-10)

    def test_wrong_width_is_refused(self, family: str) -> None:
        with pytest.raises(ShapeError, match="width"):
            family_named(family).bind(torch.ones(2, 3, dtype=torch.float64), derive(family, "a"))

    def test_order_and_grouping_of_a_mixture_do_not_matter(self, family: str) -> None:
        reference = derive(family, "mix(a:0.5,b:0.3,c:0.2)")
        for text in ("mix(c:0.2,a:0.5,b:0.3)", "mix(a:0.5,mix(b:0.6,c:0.4):0.5)", "mix(a:0.25,b:0.3,a:0.25,c:0.2)"):
            np.testing.assert_allclose(derive(family, text), reference, atol=1e-9, err_msg=text)


@pytest.mark.parametrize("family", POWERED)
class TestCompositions:
    @pytest.mark.parametrize(
        ("text", "shares"),
        [
            ("a^1.25", [("a", 1.0, 1.25)]),
            ("a^-2", [("a", 1.0, -2.0)]),
            ("mix(a:0.7,b:0.3)", [("a", 0.7, None), ("b", 0.3, None)]),
            ("mix(a:0.5,b^2:0.5)", [("a", 0.5, None), ("b", 0.5, 2.0)]),
            ("mix(a:0.5,b:0.5)^1.5", [("a", 0.5, 1.5), ("b", 0.5, 1.5)]),
            ("mix(a:0.25,mix(b:0.5,c^3:0.5)^0.5:0.75)", [("a", 0.25, None), ("b", 0.375, 0.5), ("c", 0.375, 1.5)]),
        ],
    )
    def test_against_the_dense_exponential(
        self, family: str, text: str, shares: list[tuple[str, float, float | None]]
    ) -> None:
        expected = oracle.composed(family, shares, FEATURES)
        np.testing.assert_allclose(matrix(family, text), expected, atol=1e-8)

    def test_nothing_is_wrapped_between_powers(self, family: str) -> None:
        np.testing.assert_allclose(matrix(family, "a^2^0.5"), matrix(family, "a^1"), atol=1e-9)
        np.testing.assert_allclose(matrix(family, "a^1"), matrix(family, "a"), atol=1e-9)

    def test_a_mixture_of_one_is_the_part(self, family: str) -> None:
        np.testing.assert_allclose(matrix(family, "mix(a:3)"), matrix(family, "a"), atol=1e-9)

    def test_float32_rotations_stay_orthogonal_to_1e_5(self, family: str) -> None:
        kind = family_named(family)
        for text in ("mix(a:0.6,b:0.4)", "a^7.3", "mix(a^0.3:0.5,b:0.5)"):
            c = derive(family, text, 64).to(torch.float32)
            bound = kind.bind(torch.eye(kind.width(64)), c)
            assert float((bound @ bound.T - torch.eye(len(bound))).abs().max()) < 1e-5


class TestPowers:
    def test_overlap_of_phase_powers_is_the_sinc_law(self) -> None:
        origin = source("phase", 20_000)
        base = origin.derive(context("a^1"), "layers.0")
        for distance in (0.0, 0.3, 0.5, 1.0, 1.5, 2.0):
            other = origin.derive(context(f"a^{1 + distance}"), "layers.0")
            overlap = float((base * other).sum(0).mean())
            assert overlap == pytest.approx(np.sinc(distance), abs=0.03)

    def test_cyclic_powers_have_period_one_and_start_at_the_bare_key(self) -> None:
        bare = derive("cyclic", "a")
        for exponent in (0, 1, -3, 12):
            np.testing.assert_allclose(derive("cyclic", f"a^{exponent}"), bare, atol=1e-9)
        np.testing.assert_allclose(derive("cyclic", "a^0.3"), derive("cyclic", "a^-2.7"), atol=1e-9)
        neighbours = derive("cyclic", "mix(a^0.98:0.5,a^1.02:0.5)")
        np.testing.assert_allclose(neighbours, bare, atol=1e-9)
        half = float((bare * derive("cyclic", "a^0.5")).sum(0).mean())
        assert half < 0.9

    def test_binary_refuses_powers_and_says_which_families_have_them(self) -> None:
        for text in ("a^2", "mix(a:0.5,b^2:0.5)"):
            with pytest.raises(CompositionNotSupported, match="phase"):
                derive("binary", text)

    def test_a_half_turn_has_no_unique_logarithm(self) -> None:
        half_turn = RotationGenerator(torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)))
        with pytest.raises(CompositionNotSupported, match="half a turn"):
            half_turn.power(0.5)

    def test_logarithms_of_large_rotations(self) -> None:
        generator = source("rotation", 257)._generator("layers.0", TaskId("a"))
        log = generator.logarithm()
        np.testing.assert_allclose(log, -log.T, atol=1e-12)
        np.testing.assert_allclose(torch.linalg.matrix_exp(log), generator.matrix, atol=1e-9)
        half = generator.power(0.5)
        np.testing.assert_allclose(half @ half, generator.matrix, atol=1e-9)


class TestBinaryMixtures:
    def test_overlap_with_each_part_is_its_weight(self) -> None:
        features = 40_000
        mixed = derive("binary", "mix(a:0.7,b:0.2,c:0.1)", features)
        for key, weight in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
            overlap = float((mixed * derive("binary", key, features)).mean())
            assert overlap == pytest.approx(weight, abs=0.02)

    def test_a_small_change_of_weight_moves_few_signs(self) -> None:
        before, after = (derive("binary", text, 10_000) for text in ("mix(a:0.5,b:0.5)", "mix(a:0.51,b:0.49)"))
        assert 0 < float((before != after).double().mean()) < 0.02


class TestSpecialCases:
    def test_binary_is_a_rotation_of_signs(self) -> None:
        signs = derive("binary", "a", 12)
        dense = torch.diag(signs)
        x = rows("binary", 4)[:, :12]
        np.testing.assert_allclose(
            family_named("binary").bind(x, signs), family_named("rotation").bind(x, dense), atol=1e-15
        )

    @pytest.mark.parametrize("family", ["complex", "phase"])
    def test_phases_are_rotations_of_planes(self, family: str) -> None:
        x = rows(family, 4)
        dense = torch.from_numpy(oracle.dense(family, "a", FEATURES))
        np.testing.assert_allclose(
            family_named(family).bind(x, derive(family, "a")), family_named("rotation").bind(x, dense), atol=1e-12
        )

    def test_complex_is_multiplication_by_complex_numbers(self) -> None:
        x = rows("complex", 4)
        numbers = x[:, :FEATURES].numpy() + 1j * x[:, FEATURES:].numpy()
        turned = numbers * np.exp(1j * oracle.phases("a", FEATURES))
        expected = np.concatenate([turned.real, turned.imag], axis=1)
        np.testing.assert_allclose(family_named("complex").bind(x, derive("complex", "a")), expected, atol=1e-12)

    def test_rotations_have_determinant_one(self) -> None:
        for key in "abc":
            for features in (5, 6):
                assert np.linalg.det(matrix("rotation", key, features)) == pytest.approx(1)


class TestDerivation:
    """Golden vectors: a release in which one of these changes must carry a new derivation version."""

    def test_bytes(self) -> None:
        stream = Stream.for_task(oracle.SECRET, "layers.0", TaskId("digits", 2))
        assert stream.bytes(16, "signs").hex() == GOLDEN_BYTES

    def test_bits_and_numbers(self) -> None:
        stream = Stream.for_task(oracle.SECRET, "layers.0", TaskId("digits"))
        assert "".join("+" if sign > 0 else "-" for sign in stream.signs(24)) == GOLDEN_SIGNS
        np.testing.assert_allclose(stream.uniforms(3, "phases"), GOLDEN_UNIFORMS, rtol=0, atol=0)
        np.testing.assert_allclose(stream.normals(3), GOLDEN_NORMALS, atol=1e-12)

    def test_every_family(self) -> None:
        for family, expected in GOLDEN_CONTEXTS.items():
            derived = derive(family, "mix(a:0.6,b:0.4)", 4).flatten()[:4]
            np.testing.assert_allclose(derived, expected, atol=1e-9, err_msg=family)

    def test_every_name_matters(self) -> None:
        base = Stream.for_task(oracle.SECRET, "layers.0", TaskId("a"))
        others = [
            Stream.for_task(oracle.SECRET, "layers.1", TaskId("a")),
            Stream.for_task(oracle.SECRET, "layers.0", TaskId("b")),
            Stream.for_task(oracle.SECRET, "layers.0", TaskId("a", 1)),
            Stream.for_task(seeded_secret(1), "layers.0", TaskId("a")),
            Stream(oracle.SECRET, ("context", "layers.0a", "0")),
        ]
        drawn = {stream.bytes(16, "signs") for stream in [base, *others]}
        assert len(drawn) == 6
        assert base.bytes(16, "phases") not in drawn

    def test_secrets_are_checked(self) -> None:
        with pytest.raises(ConfigError, match="32 bytes"):
            Stream(b"short", ("a",))
        with pytest.raises(ConfigError):
            seeded_secret(-1)
        with pytest.raises(ConfigError, match="family"):
            family_named("hadamard")


class TestTable:
    def table(self, contexts: int) -> ContextTable:
        origin = ContextSource(family_named("phase"), {"layers.0": 5, "layers.1": 8}, oracle.SECRET)
        one = 4 * (2 * 3 + 2 * 4)
        return ContextTable(origin, contexts * one, torch.float32, torch.device("cpu"))

    def of(self, *keys: str) -> list[Context]:
        return [Context(((TaskId(key), 1.0, None),)) for key in keys]

    def test_rows_of_a_mixed_batch_get_their_own_contexts(self) -> None:
        table = self.table(8)
        binding = table.bind_rows(self.of("a", "b"), torch.tensor([1, 0, 1]))["layers.1"]
        assert binding.slots is not None
        for row, key in enumerate(["b", "a", "b"]):
            expected = table.source.derive(self.of(key)[0], "layers.1").float()
            assert torch.equal(binding.contexts[binding.slots[row]], expected)

    def test_it_never_grows_past_its_bytes_and_derives_again_what_it_dropped(self) -> None:
        table = self.table(3)
        first = table.bind_all(self.of("a")[0])["layers.0"].contexts.clone()
        for number in range(50):
            table.bind_rows(self.of(f"k{number}", f"k{number + 1}"), torch.tensor([0, 1]))
            assert table.cached_bytes - table.source.generator_bytes <= 3 * table.bytes_per_context
        assert torch.equal(table.bind_all(self.of("a")[0])["layers.0"].contexts, first)

    @pytest.mark.parametrize("family", ["phase", "binary", "complex", "cyclic"])
    @pytest.mark.parametrize("features", [6, 7])
    def test_generators_are_counted_as_large_as_they_are(self, family: str, features: int) -> None:
        origin = ContextSource(family_named(family), {"l": features}, oracle.SECRET)
        generator = origin.family.generate(Stream.for_task(oracle.SECRET, "l", TaskId("a")), features)
        origin.derive(self.of("a")[0], "l")
        assert origin.generator_bytes == generator.numel() * generator.element_size()

    def test_what_a_batch_needs_is_not_evicted_by_it(self) -> None:
        table = self.table(3)
        table.bind_rows(self.of("a", "b", "c"), torch.arange(3))
        binding = table.bind_rows(self.of("d", "a", "e"), torch.arange(3))["layers.0"]
        assert binding.slots is not None
        for row, key in enumerate("dae"):
            expected = table.source.derive(self.of(key)[0], "layers.0").float()
            assert torch.equal(binding.contexts[binding.slots[row]], expected)

    def test_too_many_contexts_at_once_are_refused(self) -> None:
        with pytest.raises(CapacityExceeded, match="3 distinct"):
            self.table(3).bind_rows(self.of("a", "b", "c", "d"), torch.arange(4))


GOLDEN_BYTES = "c41764ca93584bce399aa3c63575c723"
GOLDEN_SIGNS = "+----++++--+-+-+-+++---+"
GOLDEN_UNIFORMS = [0.8648030693083009, 0.46507892385634864, 0.1949949411268953]
GOLDEN_NORMALS = [-1.4239624256630294, 0.7098765660750542, 0.9647489178651806]
GOLDEN_CONTEXTS = {
    "binary": [1.0, -1.0, 1.0, 1.0],
    "complex": [-0.5901229202613366, 0.7097298666437017, 0.3285185009956357, 0.8200598795439243],
    "phase": [-0.5901229202613366, 0.7097298666437017, 0.8073134081521451, 0.7044739288248454],
    "cyclic": [-0.5901229202613366, 0.7097298666437017, 0.8073134081521451, 0.7044739288248454],
    "rotation": [0.14714909967801645, 0.3962834071430615, -0.12282783879203288, 0.897897502894798],
}
