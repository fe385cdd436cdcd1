"""The K networks that every peer serves from a dict: of the store's shape, and the same for all of them."""

from __future__ import annotations

import os
from collections import defaultdict

import torch
from torch import nn

TASKS = int(os.environ.get("BENCHMARK_TASKS", "100"))
torch.set_num_threads(int(os.environ.get("BENCHMARK_THREADS", "1")))


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before in (784, 256, 256):
        layers += [nn.Linear(before, 256), nn.ReLU(), nn.LayerNorm(256, elementwise_affine=False)]
    return nn.Sequential(*layers, nn.Linear(256, 10)).eval()


def networks() -> dict[str, nn.Sequential]:
    return {f"t{number}": network(number) for number in range(TASKS)}


def answer(known: dict[str, nn.Sequential], tasks: list[str], rows: object) -> list[int]:
    """The class of each row, the rows of each task together."""
    inputs = torch.as_tensor(rows, dtype=torch.float32)
    classes = torch.empty(len(tasks), dtype=torch.int64)
    places: dict[str, list[int]] = defaultdict(list)
    for place, task in enumerate(tasks):
        places[task].append(place)
    with torch.inference_mode():
        for task, mine in places.items():
            classes[mine] = known[task](inputs[mine]).argmax(1)
    return [int(number) for number in classes]
