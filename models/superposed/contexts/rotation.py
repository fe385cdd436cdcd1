"""Rotation contexts: a dense random rotation for every task and layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from superposed.contexts.family import Family, Term
from superposed.contexts.keys import Stream
from superposed.errors import CompositionNotSupported

# Entries of the Cayley transform beyond this mean an angle within about 1e-9 of half a turn.
_STEEPEST = 1e9


@dataclass(frozen=True)
class RotationGenerator:
    """A rotation matrix C, float64 (D, D), with its eigenvectors found once when first needed."""

    matrix: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix and its complex eigenvectors."""
        return 3 * self.matrix.nbytes

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Angles and eigenvectors: `C = V diag(e^{iθ}) Vᴴ`.

        Found through the Cayley transform K = (I - C)(I + C)⁻¹, which is skew, so iK is Hermitian and has
        orthonormal eigenvectors to rounding, at a fraction of a Schur decomposition's cost. Return angles (D,) in
        (-π, π), float64, and vectors (D, D), complex128. Raise `CompositionNotSupported` where C turns a plane by
        exactly π, and so has no unique logarithm.
        """
        identity = torch.eye(len(self.matrix), dtype=self.matrix.dtype)
        try:
            skew = torch.linalg.solve(identity + self.matrix, identity - self.matrix)
        except RuntimeError:  # singular
            skew = torch.full_like(identity, torch.inf)
        if not float(skew.abs().max()) < _STEEPEST:
            raise CompositionNotSupported("this rotation has no unique logarithm: it turns a plane by half a turn")
        values, vectors = torch.linalg.eigh(1j * (skew - skew.T) / 2)  # of iK: tan(θ/2)
        return 2 * torch.atan(values), vectors

    def logarithm(self) -> Tensor:
        """Return the real skew-symmetric A with `exp(A) = C`, float64 (D, D)."""
        angles, vectors = self.spectrum
        return _real(vectors, 1j * angles)

    def power(self, exponent: float) -> Tensor:
        """Return `exp(p A)`, float64 (D, D)."""
        angles, vectors = self.spectrum
        return _real(vectors, torch.exp(1j * exponent * angles))


def _real(vectors: Tensor, values: Tensor) -> Tensor:
    """Return `V diag(values) Vᴴ` of a matrix that is known to be real, (D, D)."""
    product: Tensor = (vectors * values) @ vectors.conj().T
    return product.real.contiguous()


class Rotation(Family[RotationGenerator]):
    """Haar-random C in SO(D), of D² numbers, for comparison. Source: Cheung et al. 2019, section 2.2."""

    name = "rotation"

    def context_shape(self, features: int) -> tuple[int, ...]:
        """Return the shape of a dense matrix: (features, features)."""
        return (features, features)

    def generate(self, stream: Stream, features: int) -> RotationGenerator:
        """Return QR of a normal matrix in float64 with the sign fix; one column flipped where det = -1."""
        normal = torch.from_numpy(stream.normals(features * features)).view(features, features)
        q, r = torch.linalg.qr(normal)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
        if float(torch.linalg.slogdet(q).sign) < 0:
            q[:, 0] = -q[:, 0]
        return RotationGenerator(q)

    def compose(self, terms: Sequence[Term[RotationGenerator]], picks: Stream) -> Tensor:
        """Return `exp(Σ α p A(k))`; a single task, or a power of one, needs no exponential."""
        if len(terms) == 1:
            [term] = terms
            return term.generator.matrix if term.exponent is None else term.generator.power(term.weight * term.exponent)
        factors = [one.weight * (1.0 if one.exponent is None else one.exponent) for one in terms]
        scaled = [factor * one.generator.logarithm() for factor, one in zip(factors, terms, strict=True)]
        generator = torch.stack(scaled).sum(0)  # (D, D), skew
        # iA is Hermitian: A = V diag(-iλ) Vᴴ, so exp(A) stays orthogonal to rounding
        values, vectors = torch.linalg.eigh(1j * generator)
        return _real(vectors, torch.exp(-1j * values))  # (D, D)

    def bind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Multiply every row by its matrix, one product for each context present."""
        return self._multiply(x, contexts.transpose(-1, -2), index)

    def unbind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Multiply every row by its matrix transposed."""
        return self._multiply(x, contexts, index)

    def _multiply(self, x: Tensor, matrices: Tensor, index: Tensor | None) -> Tensor:
        self._check_width(x, matrices.shape[-1])
        if index is None:
            return x @ matrices  # (B, width)
        order = index.argsort(stable=True)
        slots, counts = torch.unique_consecutive(index[order], return_counts=True)
        groups = torch.split(x[order], counts.tolist())  # rows of one context each
        product = torch.cat([rows @ matrices[slot] for rows, slot in zip(groups, slots.tolist(), strict=True)])
        return product[order.argsort()]  # (B, width), row order restored

    def response_energy(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return `‖w‖² ‖x‖² / D`."""
        return x.square().sum(-1, keepdim=True) * weight.square().sum(-1) / weight.shape[-1]  # (B, D_out)
