"""Images as tensors, centred: IDX data sets, folders of pictures in zip files; and turned by any angle."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.datasets import DataUnavailable, data_dir, idx_dataset

__all__ = ["Images", "load_images", "turned"]


@dataclass(frozen=True)
class Images:
    """A data set as tensors: rows (N, features) less the training set's mean image, and classes (N,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: Tensor
    shape: tuple[int, int, int] = (1, 28, 28)

    @property
    def features(self) -> int:
        """Features of a row."""
        return self.train_x.shape[1]


def load_images(name: str = "mnist") -> Images:
    """Read an IDX data set from `SUPERPOSED_DATA_DIR`, or `cifar10` from pictures in zip files there.

    Raises:
        DataUnavailable: It is not there.
    """
    if name == "cifar10":
        folder = data_dir() / name
        (train_x, train_y), (test_x, test_y) = (_pictures(folder / f"{part}.zip") for part in ("train", "test"))
        mean = train_x.mean(0)
        return Images(train_x - mean, train_y, test_x - mean, test_y, mean, (3, 32, 32))
    data = idx_dataset(name)
    mean = torch.from_numpy(data.train_x.mean(0))
    return Images(
        torch.from_numpy(data.train_x) - mean,
        torch.from_numpy(data.train_y),
        torch.from_numpy(data.test_x) - mean,
        torch.from_numpy(data.test_y),
        mean,
    )


def _pictures(path: Path) -> tuple[Tensor, Tensor]:
    """Read pictures `<class>/<id>` of a zip file as rows (N, channels x height x width) and classes."""
    if not path.exists():
        raise DataUnavailable("no pictures there", expected="a zip file of <class>/<id>.jpg", received=str(path))
    rows: list[NDArray[np.uint8]] = []
    names: list[str] = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if not name.endswith("/")):
            with archive.open(name) as file, Image.open(file) as picture:
                rows.append(np.asarray(picture.convert("RGB")).transpose(2, 0, 1).reshape(-1))
            names.append(name.split("/")[-2])
    classes = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.from_numpy(np.stack(rows)).float() / 255, torch.tensor([classes[name] for name in names])


def turned(rows: Tensor, turns: Tensor | float, mean: Tensor) -> Tensor:
    """Rotate square images about their middle, bilinearly; what comes in from outside is black.

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
