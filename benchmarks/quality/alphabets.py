"""Alphabets as tasks: 8 characters of one alphabet of Omniglot each, 15 drawings a character to learn, 5 to test.

    python -m benchmarks.quality alphabets

24 tasks a draw, drawn from the five alphabets of the first small background set (Lake et al., Science 2015); pictures
of 28 x 28, ink is 1. The store holds one ConvNet, all tasks in a group, taught one task after another or in updates of
many tasks; beside it a ConvNet of its own for each task, and one ConvNet with private output layers, which sees all
rows at once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from benchmarks.quality.report import STORE, Found, cost_of_store, cost_of_weights, timed
from experiments.datasets import DataUnavailable, data_dir
from experiments.jobs import Job, Stream, run_store
from superposed import StoreConfig
from superposed.config import ConvNetConfig
from superposed.nn.build import convnet

TASKS, CHARACTERS, LEARNED, SIDE = 24, 8, 15, 28
# As chosen on draws 0 to 2: `python -m benchmarks.quality alphabets --tune`.
ONE_BY_ONE: dict[str, Any] = {"passes": 10, "batch": 24}
TOGETHER: dict[str, Any] = {
    "passes": 10,
    "batch": 128,
    "mixed": True,
    "rehearsal": {"ratio": 0, "own_ratio": 0},  # every row is sent in each pass
}
OWN: dict[str, Any] = {"rate": 3e-3, "passes": 30}
SHARED: dict[str, Any] = {"rate": 3e-3, "passes": 60}
TRIED: dict[str, dict[str, Any]] = {
    "one by one, 5 passes": {"passes": 5, "batch": 24},
    "one by one, 10 passes": ONE_BY_ONE,
    "one by one, 20 passes, one step": {"passes": 20, "batch": 24, "optimizer": {"steps": 1}},
    "one by one, 10 passes, no group": {"passes": 10, "batch": 24, "group": False},
    "together, 5 passes": {**TOGETHER, "passes": 5},
    "together, 10 passes": TOGETHER,
}
NETWORK = ConvNetConfig(input_shape=(1, SIDE, SIDE), channels=(16, 32, 64), hidden=(128,), outputs=CHARACTERS)


@lru_cache(maxsize=1)
def drawings() -> dict[str, list[NDArray[np.float32]]]:
    """Return each alphabet's characters as drawings (20, 784)."""
    path = data_dir() / "omniglot/images_background_small1.zip"
    if not path.exists():
        raise DataUnavailable("Omniglot is not there", expected="its first small background set", received=str(path))
    found: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
            with archive.open(name) as file, Image.open(file) as picture:
                small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
            ink = 1.0 - np.asarray(small, dtype=np.float32).reshape(-1) / 255.0
            alphabet, character = name.split("/")[-3:-1]
            found.setdefault((alphabet, character), []).append(ink)
    several: dict[str, list[NDArray[np.float32]]] = {}
    for (alphabet, _), own in found.items():
        several.setdefault(alphabet, []).append(np.stack(own))
    return several


def streams(draw: int, tasks: int = TASKS) -> list[Stream]:
    """Return tasks: 8 characters of an alphabet each, the alphabets in turn."""
    random, alphabets, made = np.random.default_rng(draw), list(drawings().values()), []
    for number in range(tasks):
        characters = alphabets[number % len(alphabets)]
        chosen = random.choice(len(characters), CHARACTERS, replace=False)
        orders = [random.permutation(len(characters[place])) for place in chosen]
        learned = np.concatenate(
            [characters[place][order[:LEARNED]] for place, order in zip(chosen, orders, strict=True)]
        )
        tested = np.concatenate(
            [characters[place][order[LEARNED:]] for place, order in zip(chosen, orders, strict=True)]
        )
        y, test_y = (np.repeat(np.arange(CHARACTERS), len(one) // CHARACTERS) for one in (learned, tested))
        order = random.permutation(len(learned))
        made.append(Stream(learned[order].astype(np.float64), y[order], tested.astype(np.float64), test_y, CHARACTERS))
    return made


def store(several: list[Stream], draw: int, settings: dict[str, Any]) -> tuple[list[float], Any]:
    """Teach a store the tasks one after another; accuracies in percent, and the store."""
    settings = dict(settings)
    network = NETWORK.model_dump() | {"expansion": 50} | settings.pop("network", {})
    job = Job(
        lambda _: several,
        batch=settings.pop("batch"),
        passes=settings.pop("passes"),
        group=settings.pop("group", True),
        mixed=settings.pop("mixed", False),
        scaling="none",
    )
    return run_store(job, several, StoreConfig.of_preset("users", {"network": network, **settings}), draw)


class _Private(nn.Module):
    """A ConvNet whose last layer is each task's own."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        layers = list(convnet(NETWORK).children())
        last = layers[-1]
        assert isinstance(last, nn.Linear)
        self.body = nn.Sequential(*layers[:-1])
        self.weight = nn.Parameter(torch.zeros(tasks, CHARACTERS, last.in_features))
        self.bias = nn.Parameter(torch.zeros(tasks, CHARACTERS))

    def forward(self, x: Tensor, owners: Tensor) -> Tensor:
        signal = self.body(x.view(-1, 1, SIDE, SIDE))
        return torch.baddbmm(self.bias[owners][:, :, None], self.weight[owners], signal[:, :, None]).squeeze(2)


def private(several: list[Stream], rate: float, passes: int, seed: int, batch: int = 128) -> tuple[list[float], int]:
    """Train on all tasks' rows together, or on one task's; accuracies in percent, and weights."""
    torch.manual_seed(seed)
    network = _Private(len(several))
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    x = torch.from_numpy(np.concatenate([one.x for one in several])).float()
    y = torch.from_numpy(np.concatenate([one.y for one in several]))
    owner = torch.arange(len(several)).repeat_interleave(len(several[0].x))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, passes * -(-len(x) // batch))
    for _ in range(passes):
        for rows in torch.split(torch.randperm(len(x)), batch):
            optimizer.zero_grad()
            F.cross_entropy(network(x[rows], owner[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
            optimizer.step()
            schedule.step()
    each = []
    with torch.inference_mode():
        for task, one in enumerate(several):
            answers = network(torch.from_numpy(one.test_x).float(), torch.full((len(one.test_x),), task))
            each.append(100.0 * float((answers.argmax(1).numpy() == one.test_y).mean()))
    return each, sum(parameter.numel() for parameter in network.parameters())


def run(draw: int, settings: dict[str, Any]) -> Found:
    """Measure one draw."""
    several = streams(draw)
    (each, taught), seconds = timed(lambda: store(several, draw, settings))
    (shared, weights), of_shared = timed(lambda: private(several, SHARED["rate"], SHARED["passes"], draw))
    own, of_own = timed(lambda: [private([one], OWN["rate"], OWN["passes"], draw, batch=24) for one in several])
    return Found(
        accuracy={
            STORE: each,
            "a ConvNet a task": [accuracies[0] for accuracies, _ in own],
            "shared ConvNet, private output layers": shared,
        },
        cost={
            STORE: cost_of_store(taught, seconds),
            "a ConvNet a task": cost_of_weights(sum(count for _, count in own), of_own),
            "shared ConvNet, private output layers": cost_of_weights(weights, of_shared),
        },
    )


def tried() -> dict[str, Callable[[int], list[float]]]:
    """Return what is tried on the draws for tuning."""

    def of_store(draw: int, settings: dict[str, Any]) -> list[float]:
        return store(streams(draw), draw, settings)[0]

    def of_shared(draw: int, rate: float, passes: int) -> list[float]:
        return private(streams(draw), rate, passes, draw)[0]

    def of_own(draw: int, rate: float, passes: int) -> list[float]:
        return [private([one], rate, passes, draw, batch=24)[0][0] for one in streams(draw)]

    found: dict[str, Callable[[int], list[float]]]
    found = {f"store, {name}": partial(of_store, settings=one) for name, one in TRIED.items()}
    for rate, passes in ((1e-3, 30), (1e-3, 60), (3e-3, 30), (3e-3, 60)):
        found[f"shared, rate {rate:g}, {passes} passes"] = partial(of_shared, rate=rate, passes=passes)
        found[f"own, rate {rate:g}, {passes} passes"] = partial(of_own, rate=rate, passes=passes)
    return found
