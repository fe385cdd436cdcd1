"""Contexts made of phases: rotations of pairs of features.

Pairs are (j, j + width/2): the first half of a vector with the second. For a vector of complex
numbers laid out as real parts then imaginary parts these pairs *are* the complex numbers, so the
complex family is this one with a pair for every feature.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from superposed.contexts.family import Family, Term
from superposed.contexts.keys import Stream


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)  # each (B, width/2)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)  # (B, width)


class Phase(Family[Tensor]):
    """Random phases acting on pairs of *real* features: real weights, one real matrix product.

    A generator is the phases `φ ~ U[-π, π)`, never wrapped: a mixture is their average, a power
    their multiple. A context is (cos φ, sin φ), stacked.

    Source: Cheung et al. 2019, section 2.3 ("complex superposition"), restricted to real weights.
    """

    name = "phase"
    halves = 2

    def padding(self, features: int) -> int:
        """Return 1 for an odd number of features, which lacks half a pair."""
        return features % 2

    def pairs(self, features: int) -> int:
        """Return the number of pairs, and so of phases, in a vector of `features` features."""
        return self.width(features) // 2

    def context_shape(self, features: int) -> tuple[int, ...]:
        """Return cosines and sines: (2, pairs)."""
        return (2, self.pairs(features))

    def generate(self, stream: Stream, features: int) -> Tensor:
        """Draw phases, float64 (pairs,)."""
        return torch.from_numpy((2.0 * stream.uniforms(self.pairs(features), "phases") - 1.0) * np.pi)

    def compose(self, terms: Sequence[Term[Tensor]], picks: Stream) -> Tensor:
        """Return cosine and sine of `φ = Σ α p φ(k)` over the terms."""
        parts = [term.weight * self._phases(term.generator, term.exponent) for term in terms]
        phases = torch.stack(parts).sum(0)  # (pairs,)
        return torch.stack([phases.cos(), phases.sin()])  # (2, pairs)

    @staticmethod
    def _phases(generator: Tensor, exponent: float | None) -> Tensor:
        return generator if exponent is None else generator * exponent

    def bind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Turn every pair by its phase."""
        self._check_width(x, 2 * contexts.shape[-1])
        chosen = contexts if index is None else contexts[index]  # (2, pairs) or (B, 2, pairs)
        return _rotate(x, chosen[..., 0, :], chosen[..., 1, :])

    def unbind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Turn every pair back."""
        self._check_width(x, 2 * contexts.shape[-1])
        chosen = contexts if index is None else contexts[index]
        return _rotate(x, chosen[..., 0, :], -chosen[..., 1, :])

    def response_energy(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return `Σ_pairs |w|² |x|² / 2`: a uniformly turned pair answers with half its energy."""
        pair_energy = [sum(half.square() for half in tensor.chunk(2, dim=-1)) for tensor in (x, weight)]
        return torch.as_tensor(pair_energy[0]) @ torch.as_tensor(pair_energy[1]).T / 2  # (B, D_out)


class Complex(Phase):
    """`C(k) = diag(e^{iφ})` on complex features, real parts first. Source: Cheung et al. 2019, section 2.3."""

    name = "complex"
    components = 2

    def padding(self, features: int) -> int:
        """Return 0: every complex feature is a pair by itself."""
        return 0


class Cyclic(Phase):
    """Phases whose power repeats with period 1: `φ = φ₀(k) + 2π n(k) p`, n whole numbers.

    A generator is (φ₀, 2πn), stacked, (2, pairs). The bare key is p = 0. For angles, hours, seasons.
    The frequencies n are rounded standard normal numbers: the overlap of exponents s and t is about
    `exp(-(2π (t - s))² / 2)` within a period.
    """

    name = "cyclic"

    def generate(self, stream: Stream, features: int) -> Tensor:
        """Draw anchor and turns, float64 (2, pairs)."""
        anchor = super().generate(stream, features)
        frequency = np.rint(stream.normals(self.pairs(features), "frequencies"))
        return torch.stack([anchor, torch.from_numpy(2.0 * np.pi * frequency)])

    @staticmethod
    def _phases(generator: Tensor, exponent: float | None) -> Tensor:
        anchor, turn = generator[0], generator[1]  # each (pairs,)
        # Not reduced to its fraction, so that mixtures of neighbours across a whole turn stay neighbours.
        return anchor if exponent is None else anchor + turn * exponent
