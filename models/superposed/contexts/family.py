"""Interface of a family of contexts, and what follows from the interface alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from superposed.contexts.keys import Stream
from superposed.errors import ShapeError

G = TypeVar("G")


@dataclass(frozen=True)
class Term(Generic[G]):
    """One task's share in a composed context: its generator, weight, and exponent if it has one."""

    generator: G
    weight: float = 1.0
    exponent: float | None = None


class Family(ABC, Generic[G]):
    """A set of orthogonal matrices C that random keys are drawn from, and the ways to apply them.

    A *generator* (float64) is what a key is drawn as, and what mixtures and powers are computed on; its `nbytes` is
    what keeping it takes. A *context* is the generator made ready to bind with: rows of numbers that a batch can
    gather. All families act on real vectors of `width(features)` numbers; a family of two components (complex) lays a
    vector of complex numbers out as its real parts followed by its imaginary parts.
    """

    name: str
    components: int = 1
    # Parts of a vector that are paired with each other: 2 for families that turn pairs.
    halves: int = 1
    # Blocks of an expanded context, each bound with the whole vector.
    blocks: int = 1

    def padding(self, features: int) -> int:
        """Return the number of zero features appended before binding, for families that act on pairs."""
        return 0

    def width(self, features: int) -> int:
        """Return the number of real numbers in a bound vector of `features` features."""
        return self.components * (features + self.padding(features))

    def bound_width(self, features: int) -> int:
        """Return the number of real numbers in a vector once it is bound."""
        return self.width(features)

    @abstractmethod
    def context_shape(self, features: int) -> tuple[int, ...]:
        """Return the shape of one materialised context for a layer of `features` inputs."""

    @abstractmethod
    def generate(self, stream: Stream, features: int) -> G:
        """Draw one task's generator for a layer of `features` inputs from a derived stream."""

    @abstractmethod
    def compose(self, terms: Sequence[Term[G]], picks: Stream) -> Tensor:
        """Evaluate a composition whose mixtures and powers have been pushed down to its tasks.

        Args:
            terms: The tasks' shares; their weights sum to 1.
            picks: A derived stream for families that choose between parts at random.

        Returns:
            The context, float64, of `context_shape`.

        Raise `CompositionNotSupported` where the family has no such composition.
        """

    @abstractmethod
    def bind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Apply contexts to rows: `C(k) x`.

        Args:
            x: (B, width) rows, any float dtype.
            contexts: One context for all rows, `context_shape`; or, with an index, K of them, (K, ...).
            index: (B,) int64, the context of each row.

        Returns:
            (B, width), the dtype of `x`.
        """

    @abstractmethod
    def unbind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Apply inverse contexts to rows: `C(k)⁻¹ x`; arguments as for `bind`."""

    @abstractmethod
    def response_energy(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return the expected squared response `E (w C x)²` over contexts drawn at random.

        This is the variance of the residual (METHOD.md): what a vector answers to a weight row whose
        context is independent of its own.

        Args:
            weight: (D_out, width).
            x: (B, width).

        Returns:
            (B, D_out).
        """

    def superpose(self, weights: Tensor, contexts: Tensor) -> Tensor:
        """Return `W = Σ_k W(k) C(k)⁻¹` from weights (K, D_out, width) and contexts (K, ...)."""
        # C is orthogonal, so a row of W(k) C(k)⁻¹ is C(k) applied to that row.
        bound = [self.bind(weight, context) for weight, context in zip(weights, contexts, strict=True)]
        return torch.stack(bound).sum(0)  # (D_out, width)

    def retrieve(self, weight: Tensor, context: Tensor) -> Tensor:
        """Return the retrieval equation: `W C(k)`, (D_out, width), from one store matrix and one context."""
        return self.unbind(weight, context)

    def _check_width(self, x: Tensor, expected: int) -> None:
        if x.shape[-1] != expected:
            problem = f"a vector of the wrong width for this {self.name} context"
            raise ShapeError(problem, expected=f"(..., {expected})", received=tuple(x.shape))
