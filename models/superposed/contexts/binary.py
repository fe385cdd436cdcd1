"""Binary contexts: a random sign for every feature."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from superposed.contexts.family import Family, Term
from superposed.contexts.keys import Stream
from superposed.errors import CompositionNotSupported


class Binary(Family[Tensor]):
    """`C(k) = diag(c)`, `c ∈ {-1, +1}^D`, its own inverse; no real powers. Source: Cheung et al. 2019, section 2.3."""

    name = "binary"

    def context_shape(self, features: int) -> tuple[int, ...]:
        """Return the shape of one sign a feature: (features,)."""
        return (features,)

    def generate(self, stream: Stream, features: int) -> Tensor:
        """Return signs, float64 (features,)."""
        return torch.from_numpy(stream.signs(features))

    def compose(self, terms: Sequence[Term[Tensor]], picks: Stream) -> Tensor:
        """Take each coordinate's sign from one part, so that the overlap with a part is its weight.

        A coordinate's pick depends only on which tasks are mixed, so moving the weights a little moves few signs.
        """
        exponents = [term.exponent for term in terms if term.exponent is not None]
        if exponents:
            problem = "binary contexts have no powers: c² = 1, so every power is c or 1"
            expected = "a task or a mixture, or a family with powers (phase, complex, cyclic, rotation)"
            raise CompositionNotSupported(problem, expected=expected, received=f"exponent {exponents[0]:g}")
        signs = torch.stack([term.generator for term in terms])  # (terms, features)
        cumulative = np.cumsum([term.weight for term in terms])
        features = signs.shape[1]
        chosen = np.searchsorted(cumulative[:-1], picks.uniforms(features, "picks"), side="right")
        return signs[torch.from_numpy(chosen), torch.arange(features)]  # (features,)

    def bind(self, x: Tensor, contexts: Tensor, index: Tensor | None = None) -> Tensor:
        """Flip signs."""
        self._check_width(x, contexts.shape[-1])
        return x * (contexts if index is None else contexts[index])  # (B, width)

    unbind = bind  # a sign is its own inverse

    def response_energy(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return `Σ_i w_i² x_i²`."""
        return x.square() @ weight.square().T  # (B, D_out)
