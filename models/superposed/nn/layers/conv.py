"""A convolution whose kernel is bound with each row's context: `y = W (C(k) [patch, 1])` at every place."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superposed.contexts import Binding, Family
from superposed.errors import ConfigError
from superposed.nn.layers.linear import SuperposedLinear


class SuperposedConv2d(nn.Module):
    """One kernel shared by all tasks; a task is the context that its patches are bound with.

    The context has one number a feature of a patch (channels x height x width of the kernel), the same at every place
    of the image. Rows of one context are an ordinary convolution with the context folded into the kernel. Of rows of
    many contexts either all patches are bound, for one product, or for each row the kernel: whichever are fewer. Kernel
    size, stride and padding (of zeros) are height and width; the weights start at 0. Raise `ConfigError` for a family
    of complex features.

    Source: Cheung et al. 2019, section 3.4 (contexts of convolutions).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        family: Family[Any],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if family.components != 1:
            expected = "a family on real features (phase, binary, cyclic, rotation)"
            raise ConfigError("convolutions have real features", expected=expected, received=family.name)
        self.kernel = (in_channels, *kernel_size)
        self.stride, self.padding = stride, padding
        features = in_channels * kernel_size[0] * kernel_size[1]
        self.patches = SuperposedLinear(features, out_channels, family, dtype=dtype)

    def unfold(self, x: Tensor) -> Tensor:
        """Return the patches of images (B, C, H, W) as rows: (B x places, features)."""
        columns = self._columns(x)
        return columns.transpose(1, 2).reshape(-1, columns.shape[1])

    def _columns(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.kernel[1:], padding=self.padding, stride=self.stride)  # (B, features, places)

    def retrieve(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Fold a context as `SuperposedLinear.retrieve`; weight is (out_channels, C, height, width)."""
        weight, bias = self.patches.retrieve(context)
        return weight.view(-1, *self.kernel), bias

    def forward(self, x: Tensor, binding: Binding) -> Tensor:
        """Convolve a batch (B, C, H, W), whose rows may belong to different contexts, to (B, out_channels, H', W')."""
        if binding.slots is None:
            return F.conv2d(x, *self.retrieve(binding.contexts), self.stride, self.padding)
        columns = self._columns(x)
        # Binding costs as much for each patch as for each row of the kernel: the fewer of them are bound.
        by_kernel = columns.shape[2] > self.patches.out_features
        answers = (self._bound_kernels if by_kernel else self._bound_patches)(columns, binding)
        height = (x.shape[2] + 2 * self.padding[0] - self.kernel[1]) // self.stride[0] + 1
        return answers.view(len(x), -1, height, columns.shape[2] // height)

    def _bound_patches(self, columns: Tensor, binding: Binding) -> Tensor:
        """Compute one product of all patches, each bound: (B, out_channels, places)."""
        rows, places = len(columns), columns.shape[2]
        slots = torch.as_tensor(binding.slots).repeat_interleave(places)  # (B x places,)
        patches = columns.transpose(1, 2).reshape(rows * places, -1)  # (B x places, features)
        answers: Tensor = self.patches(patches, Binding(binding.contexts, slots))
        return answers.view(rows, places, -1).transpose(1, 2)

    def _bound_kernels(self, columns: Tensor, binding: Binding) -> Tensor:
        """Compute a product for each row with its context's folded kernel: (B, out_channels, places)."""
        layer = self.patches
        slots = torch.as_tensor(binding.slots)
        distinct, place = slots.unique(return_inverse=True)  # type: ignore[no-untyped-call]  # torch has no annotation there
        count, outputs = len(distinct), layer.out_features
        index = distinct.repeat_interleave(outputs)  # (K x out_channels,)
        folded = layer.family.unbind(layer.matrix().repeat(count, 1), binding.contexts, index)
        # Its gradient is added up in the order of the rows; that of `[place]` is not, with several threads.
        kernels = folded.view(count, outputs, -1).index_select(0, place)  # (B, out_channels, width)
        weight, bias = kernels[:, :, : layer.in_features], kernels[:, :, layer.in_features]
        return torch.baddbmm(bias[:, :, None], weight, columns)
