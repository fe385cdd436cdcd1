"""A linear layer whose input is bound with each row's context: `y = W (C(k) [x, 1])`."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superposed.contexts import Binding, Family


class SuperposedLinear(nn.Module):
    """One matrix of weights shared by all tasks; a task is the context its rows are bound with.

    With a bound bias the input is extended by a constant 1 (and a 0 where the family needs an even width) before it is
    bound: the bias is a column of the weights. A shared bias is added after the product, for all tasks alike.

    `weight` is (out_features, bound width); for complex families (2, out_features, bound width / 2), real and imaginary
    parts, and a shared bias is on the real part.

    Args:
        in_features: D_in, features of the input without the constant (complex ones where the family is).
        bias: `bound` or `shared`.
        real_output: For complex: give only the real parts, as the last layer of a network does.
        generator: Draws the initial weights, uniform on ±gain/√n for n numbers in; a shared bias starts
            at 0. Without one the weights are 0 too, until they are loaded.
        gain: √6 keeps the scale of a ReLU network's signals (He et al. 2015).

    Source: Cheung et al. 2019, equations 1 to 4.
    """

    constant: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        family: Family[Any],
        *,
        bias: Literal["bound", "shared"] = "bound",
        real_output: bool = False,
        gain: float = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.family = in_features, out_features, family
        constants = 1 if bias == "bound" else 0
        self.bound_features = in_features + constants
        self.width = family.width(self.bound_features)
        self._real_only = real_output
        columns = family.bound_width(self.bound_features)
        complex_weights = family.components == 2
        shape = (2, out_features, columns // 2) if complex_weights else (out_features, columns)
        bound = gain / math.sqrt(self.bound_features * family.components)
        # Drawn in float64 and cast last, so that stores of either dtype start from the same numbers.
        initialized = torch.zeros(shape, dtype=dtype)
        if generator is not None:
            initialized = torch.rand(shape, generator=generator, dtype=torch.float64) * (2 * bound) - bound
        self.weight = nn.Parameter(initialized.to(dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias == "shared" else None
        constant = torch.zeros(family.components, constants + family.padding(self.bound_features), dtype=dtype)
        constant[0, :constants] = 1.0
        self.register_buffer("constant", constant, persistent=False)

    def matrix(self) -> Tensor:
        """Return the real matrix of the product, (rows, bound width): components x D_out rows, or D_out."""
        if self.family.components == 1:
            return self.weight
        real, imaginary = self.weight
        top = torch.cat([real, -imaginary], dim=1)  # (D_out, bound width)
        if self._real_only:
            return top
        return torch.cat([top, torch.cat([imaginary, real], dim=1)])  # (2 D_out, bound width)

    def extend(self, x: Tensor) -> Tensor:
        """Append a bound bias's constant 1 and the padding: (B, components x D_in) to (B, width)."""
        rows = len(x)
        components = x.view(rows, self.family.components, self.in_features)  # (B, components, D_in)
        constant = self.constant.expand(rows, *self.constant.shape)  # (B, components, constant + padding)
        return torch.cat([components, constant], dim=-1).view(rows, self.width)

    def forward(self, x: Tensor, binding: Binding) -> Tensor:
        """Bind rows (B, components x D_in) and multiply all at once: (B, components x D_out), or (B, D_out) if real."""
        return F.linear(self.family.bind(self.extend(x), *binding), self.matrix(), self.shared_bias())

    def shared_bias(self) -> Tensor | None:
        """Return the bias that is added after the product, as long as its rows; None where it is bound."""
        if self.bias is None or self.family.components == 1 or self._real_only:
            return self.bias
        return torch.cat([self.bias, torch.zeros_like(self.bias)])  # (2 D_out,)

    def retrieve(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Fold one context, in the weights' dtype, into the weights: a linear layer that computes the same.

        Its weight is (rows of `matrix()`, components x D_in), its bias (rows,).
        """
        folded = self.family.retrieve(self.matrix(), context)  # (rows, width)
        # (rows, components, D_in + constant + padding)
        components = folded.view(len(folded), self.family.components, -1)
        shared = self.shared_bias()
        bias = components[:, 0, self.in_features] if shared is None else shared  # (rows,)
        return components[:, :, : self.in_features].reshape(len(folded), -1), bias
