"""Rotation contexts: a dense random rotation for every task and layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from superposed.contexts.family import Family, Term
from superposed.contexts.keys import Stream

__all__ = ["Rotation", "RotationGenerator"]


@dataclass(frozen=True)
class RotationGenerator:
    """A rotation matrix C, float64 (D, D), with its planes and angles found once when first needed."""

    matrix: Tensor

    @cached_property
    def planes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal bases of the planes that C turns, and by how much.

        Returns:
            (u, v, angles): u and v are (D, planes), angles (planes,) in radians: C maps u to
            `cos u + sin v` and v to `cos v - sin u`, and leaves the rest alone.
        """
        triangular, basis = scipy.linalg.schur(self.matrix.numpy(), output="real")
        first, second, angles = _blocks(np.asarray(triangular))
        basis = np.asarray(basis)
        return (
            torch.from_numpy(basis[:, first]),
            torch.from_numpy(basis[:, second]),
            torch.from_numpy(np.asarray(angles)),
        )

    def logarithm(self) -> Tensor:
        """The real skew-symmetric A with `exp(A) = C`, float64 (D, D)."""
        u, v, angles = self.planes
        half = (v * angles) @ u.T  # (D, D)
        return half - half.T

    def power(self, exponent: float) -> Tensor:
        """`exp(p A)`, float64 (D, D)."""
        u, v, angles = self.planes
        turned = angles * exponent
        # R = I + (cos - 1)(u uᵀ + v vᵀ) + sin (v uᵀ - u vᵀ), summed over the planes
        half = (v * turned.sin()) @ u.T  # (D, D)
        stretch = (u * (turned.cos() - 1)) @ u.T + (v * (turned.cos() - 1)) @ v.T  # (D, D)
        return torch.eye(len(half), dtype=half.dtype) + stretch + half - half.T


def _blocks(triangular: np.ndarray) -> tuple[list[int], list[int], list[float]]:
    """Reads the 2x2 rotation blocks off a real Schur form; lone -1 eigenvalues are half turns in pairs."""
    size = len(triangular)
    first: list[int] = []
    second: list[int] = []
    angles: list[float] = []
    reflected: list[int] = []
    column = 0
    while column < size:
        if column + 1 < size and triangular[column + 1, column] != 0.0:
            first.append(column)
            second.append(column + 1)
            angles.append(float(np.arctan2(triangular[column + 1, column], triangular[column, column])))
            column += 2
            continue
        if triangular[column, column] < 0:
            reflected.append(column)
        column += 1
    first += reflected[0::2]
    second += reflected[1::2]
    angles += [float(np.pi)] * (len(reflected) // 2)
    return first, second, angles


class Rotation(Family[RotationGenerator]):
    """Haar-random C in SO(D). D² numbers a task and layer: the general case, for comparison.

    Source: Cheung et al. 2019, section 2.2 ("rotational superposition").
    """

    name: ClassVar[str] = "rotation"

    def context_shape(self, features: int) -> tuple[int, ...]:
        """A dense matrix: (features, features)."""
        return (features, features)

    def generate(self, stream: Stream, features: int) -> RotationGenerator:
        """QR of a normal matrix in float64 with the sign fix; one column flipped where det = -1."""
        normal = stream.normals(features * features).reshape(features, features)
        q, r = np.linalg.qr(normal)
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        if np.linalg.slogdet(q)[0] < 0:
            q[:, 0] = -q[:, 0]
        return RotationGenerator(torch.from_numpy(np.ascontiguousarray(q)))

    def compose(self, terms: Sequence[Term[RotationGenerator]], picks: Stream) -> Tensor:
        """`exp(Σ α p A(k))`; a bare task is its matrix, and a power of one task needs no exponential."""
        del picks
        if len(terms) == 1 and terms[0].exponent is None:
            return terms[0].generator.matrix
        if len(terms) == 1:
            return terms[0].generator.power(terms[0].weight * (terms[0].exponent or 0.0))
        generator = torch.stack([self._scaled(term) for term in terms]).sum(0)  # (D, D), skew
        # iA is Hermitian: A = V diag(-iλ) Vᴴ, so exp(A) stays orthogonal to rounding
        values, vectors = torch.linalg.eigh(1j * generator)
        unitary: Tensor = (vectors * torch.exp(-1j * values)) @ vectors.conj().T  # (D, D)
        return unitary.real.contiguous()

    @staticmethod
    def _scaled(term: Term[RotationGenerator]) -> Tensor:
        exponent = 1.0 if term.exponent is None else term.exponent
        return term.weight * exponent * term.generator.logarithm()

    def bind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Multiplies every row by its matrix, one product for each context present."""
        return self._multiply(x, contexts.transpose(-1, -2), index)

    def unbind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Multiplies every row by its matrix transposed."""
        return self._multiply(x, contexts, index)

    def _multiply(self, x: Tensor, matrices: Tensor, index: Tensor | None) -> Tensor:
        self._check_width(x, matrices.shape[-1])
        if index is None:
            return x @ matrices  # (B, width)
        order = index.argsort(stable=True)
        slots, counts = torch.unique_consecutive(index[order], return_counts=True)
        groups = torch.split(x[order], counts.tolist())  # rows of one context each
        product = torch.cat(
            [rows @ matrices[slot] for rows, slot in zip(groups, slots.tolist(), strict=True)]
        )
        return product[order.argsort()]  # (B, width), row order restored

    def response_energy(self, weight: Tensor, x: Tensor) -> Tensor:
        """`‖w‖² ‖x‖² / D`."""
        width = weight.shape[-1]
        return x.square().sum(-1, keepdim=True) * weight.square().sum(-1) / width  # (B, D_out)
