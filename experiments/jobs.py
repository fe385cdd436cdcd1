"""Jobs that the defaults are chosen by and measured on, and what people use for them today.

Each job draws its tasks from a number: draw 0 is for choosing settings, later ones are for reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from experiments.datasets import sklearn_dataset
from experiments.images import load_images
from superposed.config import StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.groups import register
from superposed.learning.online import evaluate, learn
from superposed.nn import LAYER_NORM_EPSILON, activate
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema

__all__ = ["JOBS", "Job", "PrivateLayers", "Stream", "baselines", "private_layers", "private_stream", "run_store"]

Rows: TypeAlias = NDArray[np.float64]
Classes: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """One task's rows in their order, and rows to measure on; `y` holds labels where there are any."""

    x: Rows
    y: Classes
    test_x: Rows
    test_y: Classes
    classes: int
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Job:
    """Tasks of one draw, and how they arrive.

    Args:
        streams: Makes the tasks of a draw.
        batch: Rows of an update.
        passes: Times that each row is sent.
        group: Whether the tasks share a group.
        mixed: Whether updates hold rows of many tasks; else the tasks come one after another.
        scaling: Of the tasks' rows.
    """

    streams: Callable[[int], list[Stream]]
    batch: int
    passes: int = 1
    group: bool = False
    mixed: bool = False
    scaling: str = "running"


def tables(draw: int, tasks: int = 30, rows: int = 300) -> list[Stream]:
    """Return unrelated tables: 7 to 20 features of different size, 2 to 4 classes, a few wrong labels."""
    random = np.random.default_rng(draw)
    made = []
    for _ in range(tasks):
        features, classes = int(random.integers(7, 21)), int(random.integers(2, 5))
        informative = int(random.integers(4, features - 1))
        x, y = make_classification(
            rows + 1000,
            features,
            n_informative=informative,
            n_redundant=min(2, features - informative),
            n_classes=classes,
            n_clusters_per_class=1,
            class_sep=1.25,
            flip_y=0.02,
            random_state=int(random.integers(2**31)),
        )
        x = x * np.exp(random.normal(0, 1, features)) + random.normal(0, 5, features)
        made.append(Stream(x[:rows], y[:rows], x[rows:], y[rows:], classes))
    return made


def digit_users(draw: int, users: int = 30, rows: int = 60) -> list[Stream]:
    """Return users of scikit-learn's digits, each with an order of the ten labels of their own."""
    data, random = sklearn_dataset("digits"), np.random.default_rng(draw)
    x = np.concatenate([data.train_x, data.test_x]).astype(np.float64)
    y = np.concatenate([data.train_y, data.test_y])
    order = random.permutation(len(x))
    learned, tested = order[:1200], order[1200:]
    return [_user(random, x[learned], y[learned], x[tested], y[tested], rows) for _ in range(users)]


def mnist_users(draw: int, users: int = 50, rows: int = 100) -> list[Stream]:
    """Return users of MNIST with permuted labels, tested on 2,000 rows."""
    images, random = load_images(), np.random.default_rng(draw)
    x, y, test_x, test_y = (
        one.numpy() for one in (images.train_x, images.train_y, images.test_x[:2000], images.test_y[:2000])
    )
    return [_user(random, x, y, test_x, test_y, rows) for _ in range(users)]


def _user(random: Any, x: Rows, y: Classes, test_x: Rows, test_y: Classes, rows: int) -> Stream:
    labels, own = random.permutation(10), random.choice(len(x), rows, replace=False)
    return Stream(x[own], labels[y[own]], test_x, labels[test_y], 10)


def permutations(draw: int, tasks: int = 10, rows: int = 38_400) -> list[Stream]:
    """Return permuting MNIST: 300 updates of 128 rows a task."""
    images, random = load_images(), np.random.default_rng(draw)
    made = []
    for task in range(tasks):
        order = random.permutation(images.features) if task else np.arange(images.features)
        own = random.permutation(len(images.train_x))[:rows]
        train, test = images.train_x.numpy()[own][:, order], images.test_x.numpy()[:2000][:, order]
        made.append(Stream(train, images.train_y.numpy()[own], test, images.test_y.numpy()[:2000], 10))
    return made


JOBS: dict[str, Job] = {
    "tables": Job(tables, batch=10),
    "digit-users": Job(digit_users, batch=10, passes=5, group=True, scaling="none"),
    "mnist-users": Job(mnist_users, batch=128, passes=30, group=True, mixed=True, scaling="none"),
    "permutations": Job(permutations, batch=128, scaling="none"),
}


def _updates(job: Job, streams: Sequence[Stream], seed: int) -> Iterator[list[tuple[int, Classes]]]:
    """Give each update as the tasks in it and the places of their rows."""
    random = np.random.default_rng(seed)
    if not job.mixed:
        for task, stream in enumerate(streams):
            for number in range(job.passes):
                order = random.permutation(len(stream.x)) if number else np.arange(len(stream.x))
                for start in range(0, len(order), job.batch):
                    yield [(task, order[start : start + job.batch])]
        return
    owner = np.concatenate([np.full(len(one.x), task) for task, one in enumerate(streams)])
    place = np.concatenate([np.arange(len(one.x)) for one in streams])
    for _ in range(job.passes):
        order = random.permutation(len(owner))
        for start in range(0, len(order), job.batch):
            rows = order[start : start + job.batch]
            yield [(task, place[rows][owner[rows] == task]) for task in np.unique(owner[rows]).tolist()]


def run_store(
    job: Job,
    streams: Sequence[Stream],
    config: StoreConfig,
    seed: int,
    after: Callable[[WeightStore, int], None] | None = None,
) -> tuple[list[float], WeightStore]:
    """Teach a store all tasks; return the accuracy of each at the end (percent), and the store.

    `after` is called with the store after each task's last update, where they come one after another.
    """
    store = WeightStore(config, secret=seeded_secret(seed))
    keys = [f"t{number}" for number in range(len(streams))]
    for key, stream in zip(keys, streams, strict=True):
        schema = TaskSchema.model_validate({
            "key": key, "inputs": stream.x.shape[1], "outputs": stream.classes, "scaling": job.scaling,
            "group": "group" if job.group else None, "labels": stream.labels,
        })  # fmt: skip
        register(store, schema)
    last = None
    for update in _updates(job, streams, seed):
        if after is not None and last not in (None, update[0][0]):
            after(store, int(last))
        learn_rows(store, keys, streams, update)
        last = update[0][0]
    each = [
        100.0 * float(evaluate(store, key, one.test_x, one.test_y.tolist()).accuracy or 0.0)
        for key, one in zip(keys, streams, strict=True)
    ]
    return each, store


def learn_rows(
    store: WeightStore, keys: Sequence[str], streams: Sequence[Stream], update: list[tuple[int, Classes]]
) -> None:
    """Teach a store one update."""
    if len(update) == 1:
        task, rows = update[0]
        learn(store, keys[task], streams[task].x[rows], streams[task].y[rows].tolist())
        return
    from superposed.learning.online import apply
    from superposed.tasks.targets import read_targets

    contexts = [keys[task] for task, rows in update for _ in rows]
    inputs = [row for task, rows in update for row in streams[task].x[rows]]
    targets = [int(one) for task, rows in update for one in streams[task].y[rows]]
    batch = store.batch_per_row(contexts, inputs, learning=True)
    apply(store, batch, read_targets(batch, targets, store.config.network.outputs),
          steps=store.config.optimizer.steps)  # fmt: skip


class PrivateLayers(nn.Module):
    """Hidden layers that all tasks share, normalised as a store's, and an output layer for each task."""

    def __init__(self, inputs: int, hidden: Sequence[int], tasks: int, outputs: int, activation: str) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.weight = nn.Parameter(torch.zeros(tasks, outputs, widths[-1]))
        self.bias = nn.Parameter(torch.zeros(tasks, outputs))
        self._activation = activation

    def forward(self, x: Tensor, owners: Tensor) -> Tensor:
        """Answer rows (B, inputs), each with the output layer of its task (B,)."""
        for layer in self.layers:
            x = activate(layer(x), self._activation, "layer", LAYER_NORM_EPSILON)
        return torch.baddbmm(self.bias[owners][:, :, None], self.weight[owners], x[:, :, None]).squeeze(2)


def private_layers(
    streams: Sequence[Stream], hidden: Sequence[int], rate: float, passes: int, batch: int, seed: int,
    activation: str = "relu",
) -> tuple[list[float], int]:  # fmt: skip
    """Train private output layers on all tasks' rows together; accuracies (percent), and weights."""
    torch.manual_seed(seed)
    net = PrivateLayers(streams[0].x.shape[1], hidden, len(streams), streams[0].classes, activation)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    x = torch.from_numpy(np.concatenate([one.x for one in streams])).float()
    y = torch.from_numpy(np.concatenate([one.y for one in streams]))
    owner = torch.arange(len(streams)).repeat_interleave(len(streams[0].x))
    for _ in range(passes):
        for rows in torch.split(torch.randperm(len(x)), batch):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows], owner[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
            optimizer.step()
    return _private_accuracies(net, streams), sum(parameter.numel() for parameter in net.parameters())


def private_stream(
    job: Job, streams: Sequence[Stream], hidden: Sequence[int], rate: float, steps: int, seed: int
) -> list[float]:
    """Train private output layers in the store's order of updates, with replay of all rows seen; accuracies.

    Beside each batch 32 earlier rows of its task and 32 of other tasks are learned, as a store of the
    defaults does; nothing is forgotten by the replay buffer.
    """
    torch.manual_seed(seed)
    net = PrivateLayers(streams[0].x.shape[1], hidden, len(streams), streams[0].classes, "relu")
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    seen: dict[int, list[int]] = {}
    random = np.random.default_rng(seed)

    def chosen(tasks: Sequence[int]) -> list[tuple[int, int]]:
        kept = [(task, row) for task in tasks for row in seen.get(task, ())]
        return [kept[place] for place in random.integers(0, len(kept), 32)] if kept else []

    def loss(rows: Sequence[tuple[int, int]]) -> Tensor:
        x = np.stack([streams[task].x[row] for task, row in rows])
        y = torch.tensor([int(streams[task].y[row]) for task, row in rows])
        return F.cross_entropy(net(torch.from_numpy(x).float(), torch.tensor([task for task, _ in rows])), y)

    for [(task, rows)] in _updates(job, streams, seed):
        for _ in range(steps):
            others = chosen([one for one in seen if one != task])
            total = loss([(task, int(row)) for row in rows] + chosen([task]))
            optimizer.zero_grad()
            (total + loss(others) if others else total).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
            optimizer.step()
        seen[task] = sorted({*seen.get(task, []), *rows.tolist()})
    return _private_accuracies(net, streams)


def _private_accuracies(net: PrivateLayers, streams: Sequence[Stream]) -> list[float]:
    with torch.inference_mode():
        found = [
            net(torch.from_numpy(one.test_x).float(), torch.full((len(one.test_x),), task)).argmax(1).numpy()
            for task, one in enumerate(streams)
        ]
    return [100.0 * float((own == one.test_y).mean()) for own, one in zip(found, streams, strict=True)]


def baselines(streams: Sequence[Stream]) -> dict[str, list[float]]:
    """Fit what people use: a logistic regression a task (C by cross-validation), SGD in one pass, an MLP."""
    found: dict[str, list[float]] = {"logistic regression": [], "SGD, one pass": [], "MLP a task": []}
    for one in streams:
        smallest = int(np.bincount(one.y, minlength=1)[np.unique(one.y)].min())
        regression: Any = (
            LogisticRegressionCV(Cs=[0.1, 1.0, 10.0], cv=min(5, smallest), max_iter=2000)
            if smallest >= 2
            else LogisticRegression(max_iter=2000)
        )
        scaler = StandardScaler().fit(one.x)
        sgd = SGDClassifier(loss="log_loss", random_state=0)
        for start in range(0, len(one.x), 10):
            rows = slice(start, start + 10)
            sgd.partial_fit(scaler.transform(one.x[rows]), one.y[rows], classes=range(one.classes))
        network = MLPClassifier((64,), max_iter=1000, early_stopping=False, random_state=0)
        models = {
            "logistic regression": make_pipeline(StandardScaler(), regression).fit(one.x, one.y),
            "MLP a task": make_pipeline(StandardScaler(), network).fit(one.x, one.y),
        }
        for name, model in models.items():
            found[name].append(100.0 * float(model.score(one.test_x, one.test_y)))
        found["SGD, one pass"].append(100.0 * float(sgd.score(scaler.transform(one.test_x), one.test_y)))
    return found
