"""Expansion: a context that is an isometry into a space several times as wide."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from superposed.contexts.family import Family, Term
from superposed.contexts.keys import Stream
from superposed.contexts.rotation import Rotation
from superposed.errors import ConfigError


def expanded(family: Family[Any], blocks: int) -> Family[Any]:
    """Return a family expanded to a number of blocks; the family itself for 1."""
    return family if blocks == 1 else Expanded(family, blocks)


class Expanded(Family[Any]):
    """`C(k) x = m^(-1/2) [C_1(k) x; ...; C_m(k) x]`, m independent contexts of a diagonal family.

    `C(k)ᵀ C(k) = I`, so `unbind` is the left inverse. The overlap of two tasks falls by √m, at m times the
    weights. A materialised context holds the factor m^(-1/2), and a bound vector the halves that the family
    pairs: all blocks' first halves, then all second ones. Rotations, not diagonal, raise `ConfigError`.

    Source: this project (docs/decisions/0041-expansion.md).
    """

    def __init__(self, family: Family[Any], blocks: int) -> None:
        if isinstance(family, Rotation):
            problem = "rotations have no expansion: a block of them is a whole matrix"
            expected = "a diagonal family (phase, binary, complex, cyclic)"
            raise ConfigError(problem, expected=expected, received=family.name)
        self.family, self.blocks = family, blocks
        self.name, self.components = family.name, family.components
        self.halves = family.halves

    def padding(self, features: int) -> int:
        """Return the padding of one block."""
        return self.family.padding(features)

    def bound_width(self, features: int) -> int:
        """Return the number of real numbers in a bound vector: m times the width."""
        return self.blocks * self.width(features)

    def _features(self, features: int) -> int:
        return self.blocks * (features + self.padding(features))

    def context_shape(self, features: int) -> tuple[int, ...]:
        """Return the shape of a context of all blocks together."""
        return self.family.context_shape(self._features(features))

    def generate(self, stream: Stream, features: int) -> Any:
        """Draw the generators of all blocks."""
        return self.family.generate(stream, self._features(features))

    def compose(self, terms: Sequence[Term[Any]], picks: Stream) -> Tensor:
        """Evaluate a composition in each block, and apply the factor."""
        return self.family.compose(terms, picks) / math.sqrt(self.blocks)

    def bind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Apply contexts: (B, width) to (B, m width)."""
        rows, width = x.shape
        halves = x.view(rows, self.halves, 1, width // self.halves)
        repeated = halves.expand(-1, -1, self.blocks, -1).reshape(rows, self.blocks * width)
        return self.family.bind(repeated, contexts, index)

    def unbind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Apply left inverses: (B, m width) to (B, width)."""
        blocks = self.family.unbind(x, contexts, index).view(len(x), self.halves, self.blocks, -1)
        return torch.sum(blocks, 2).flatten(1)

    def response_energy(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return the mean over blocks of each block's expected response."""
        rows, width = x.shape
        halves = weight.view(len(weight), self.halves, self.blocks, width // self.halves)
        blocks = halves.transpose(1, 2).reshape(-1, width)  # (D_out m, width)
        return self.family.response_energy(blocks, x).view(rows, len(weight), self.blocks).mean(2)
