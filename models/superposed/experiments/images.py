"""MNIST-like images as tensors, centred, and turned by any angle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from superposed.datasets import idx_dataset

__all__ = ["Images", "load_images", "turned"]


@dataclass(frozen=True)
class Images:
    """A data set as tensors: rows (N, features) less the training set's mean image, and classes (N,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: Tensor

    @property
    def features(self) -> int:
        """Features of a row."""
        return self.train_x.shape[1]


def load_images(name: str = "mnist") -> Images:
    """Reads an IDX data set from `SUPERPOSED_DATA_DIR`; raises as `idx_dataset`."""
    data = idx_dataset(name)
    mean = torch.from_numpy(data.train_x.mean(0))
    return Images(
        torch.from_numpy(data.train_x) - mean,
        torch.from_numpy(data.train_y),
        torch.from_numpy(data.test_x) - mean,
        torch.from_numpy(data.test_y),
        mean,
    )


def turned(rows: Tensor, turns: Tensor | float, mean: Tensor) -> Tensor:
    """Rotates square images about their middle, bilinearly; what comes in from outside is black.

    Args:
        rows: (B, side²), less the mean image.
        turns: (B,) or one number: in whole turns.
        mean: (side²,).

    Returns:
        (B, side²), less the mean image.
    """
    side = math.isqrt(rows.shape[1])
    images = (rows + mean).view(-1, 1, side, side)
    angle = 2 * math.pi * torch.as_tensor(turns, dtype=rows.dtype).expand(len(rows))  # (B,)
    cosine, sine, none = angle.cos(), angle.sin(), torch.zeros(len(rows), dtype=rows.dtype)
    matrix = torch.stack([cosine, -sine, none, sine, cosine, none], dim=1).view(-1, 2, 3)  # (B, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).view(len(rows), -1) - mean
