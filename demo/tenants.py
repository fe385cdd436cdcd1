"""The demo's job: thirty tenants' text classifiers and three tables, in one store.

They are taught one after another over HTTP from few rows each. Then the server is started again, and what it
answers stands beside a logistic regression for each task, private output layers, and one network for all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from demo.baselines import shared_network
from demo.report import save_curves
from demo.sentences import Sentences, load_sentences
from demo.server_process import Server
from experiments.datasets import sklearn_dataset
from experiments.jobs import Stream, private_layers
from superposed.config import PRESET_ENCODERS, StoreConfig
from superposed.contexts import seeded_secret
from superposed.encoders import open_encoder
from superposed_client import Client, mixture, power
from superposed_service.cli.new_store import begin_store
from superposed_service.storage import DataDirectory

TENANTS, INTENTS, LEARNED, EPOCHS = 30, 10, 5, 5
GROUP = "tenants"


@dataclass(frozen=True)
class Task:
    """A task of the demo: rows are texts, or numbers of a table."""

    key: str
    kind: str
    train_x: Any
    train_y: Sequence[str]
    test_x: Any
    test_y: Sequence[str]

    @property
    def labels(self) -> list[str]:
        """Its labels, in the order in which they come first."""
        return list(dict.fromkeys(self.train_y))


def run_tenants(output: Path, *, keep: bool) -> None:
    """Run the demo; `output` gets the picture and the figures, `keep` leaves the server running."""
    console, started = Console(), time.monotonic()
    torch.set_num_threads(1)
    sentences = load_sentences()
    tasks, newcomer = _tasks(sentences)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="superposed-demo-") as folder:
        directory = Path(folder) / "store"
        _initialise(directory)
        server = Server(directory)
        with ThreadPoolExecutor(1) as beside, server, server.client() as client:
            console.print(f"\nOne store at [bold]{server.url}[/], {client.store().bytes.weights:,} bytes of weights.")
            console.print(f"Teaching it {len(tasks)} tasks, strictly one after another, over HTTP:\n")
            encoded = beside.submit(_encoded, directory, [*tasks, newcomer])  # for the others, on another core
            curves = _teach(client, tasks)
            vectors = encoded.result()
        console.print("\nThe server is stopped and started again; all that follows is what it answers now.")
        with Server(directory, server.port) as again, again.client() as client:
            curves[:, -1] = [_score(client, task) for task in tasks]
            others = _baselines(tasks, vectors)
            _show(console, tasks, curves, others)
            _compositions(console, client, tasks, sentences)
            _new_member(console, client, newcomer, vectors)
            means = {"superposed store": curves, **others}
            picture = save_curves(output, [task.key for task in tasks], means)
            console.print(f"\nForgetting curves: {picture}   ({time.monotonic() - started:.0f} s in all)")
            if keep:
                again.serve_until_interrupted(console)


def _initialise(directory: Path) -> None:
    config = StoreConfig.of_preset("texts")
    with DataDirectory(directory) as opened:
        begin_store(opened, config, PRESET_ENCODERS["texts"], secret=seeded_secret(0))  # the same figures each time


def _tasks(sentences: Sentences) -> tuple[list[Task], Task]:
    """Return the tasks in the order in which they are taught, and a tenant that comes later."""
    random, domains = np.random.default_rng(0), list(sentences.domains)
    tenants = []
    for number in range(TENANTS + 1):
        domain = domains[number % len(domains)]
        intents = random.choice(sentences.domains[domain], INTENTS, replace=False).tolist()
        learned = [(text, intent) for intent in intents for text in _some(random, sentences.learned[intent])]
        tested = [(text, intent) for intent in intents for text in sentences.tested[intent]]
        key = f"tenant-{number + 1}" if number < TENANTS else "newcomer"
        (train_x, train_y), (test_x, test_y) = (zip(*pairs, strict=True) for pairs in (learned, tested))
        tenants.append(Task(key, domain, list(train_x), train_y, list(test_x), test_y))
    tables = []
    for name in ("breast_cancer", "wine", "iris"):
        data = sklearn_dataset(name)
        named = [data.named(classes).tolist() for classes in (data.train_y, data.test_y)]
        tables.append(Task(name.replace("_", "-"), "table", data.train_x, named[0], data.test_x, named[1]))
    tasks = tenants[:TENANTS]
    for place, table in zip((5, 15, 25), tables, strict=True):
        tasks.insert(place, table)
    return tasks, tenants[TENANTS]


def _some(random: np.random.Generator, texts: Sequence[str]) -> list[str]:
    return [str(text) for text in random.choice(list(texts), LEARNED, replace=False)]


def _handle(client: Client, task: Task) -> Any:
    if task.kind == "table":
        return client.task(task.key, labels=task.labels)
    abstain = 0.05 if task.key == "tenant-1" else None  # what it leaves unanswered counts as wrong
    return client.task(task.key, labels=task.labels, group=GROUP, abstain=abstain)


def _teach(client: Client, tasks: Sequence[Task]) -> NDArray[np.float64]:
    """Teach the tasks in order and measure all of them after each; every number comes over HTTP."""
    curves = np.full((len(tasks), len(tasks)), np.nan)
    with tqdm(tasks, unit="task") as bar:
        for now, task in enumerate(bar):
            bar.set_description(f"{task.key:>14} ({task.kind})")
            _handle(client, task).fit(task.train_x, task.train_y, epochs=EPOCHS, batch_size=16, seed=now)
            for before, known in enumerate(tasks[: now + 1]):
                curves[before, now] = _score(client, known)
            bar.set_postfix_str(f"accuracy {curves[now, now]:.3f}, mean of all {curves[: now + 1, now].mean():.3f}")
    return curves


def _score(client: Client, task: Task) -> float:
    return client.task(task.key).score(task.test_x, task.test_y)


def _encoded(directory: Path, tasks: Sequence[Task]) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of all texts, by text, as the server's encoder makes them."""
    texts = list(
        dict.fromkeys(text for task in tasks if task.kind != "table" for text in [*task.train_x, *task.test_x])
    )
    encoder = open_encoder(PRESET_ENCODERS["texts"]["texts"], directory / "encoders/texts")
    parts = [encoder.encode(texts[start : start + 64]) for start in range(0, len(texts), 64)]
    return dict(zip(texts, np.concatenate(parts).astype(np.float32), strict=True))


def _rows(task: Task, vectors: dict[str, NDArray[np.float32]]) -> Stream:
    """Return a task as rows of numbers and classes; vectors are scaled to numbers of about 1."""
    places = {label: place for place, label in enumerate(task.labels)}
    x, test_x = (
        given if task.kind == "table" else np.stack([vectors[text] for text in given]) * np.sqrt(384)
        for given in (task.train_x, task.test_x)
    )
    y, test_y = (np.asarray([places[label] for label in given]) for given in (task.train_y, task.test_y))
    return Stream(np.asarray(x, float), y, np.asarray(test_x, float), test_y, len(places))


def _baselines(tasks: Sequence[Task], vectors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
    """Return the accuracies of what people use instead, as curves; NaN where a learner has no such task."""
    streams = [_rows(task, vectors) for task in tasks]
    alone = np.asarray([_regression(one) for one in streams])
    texts = [place for place, task in enumerate(tasks) if task.kind != "table"]
    private, _ = private_layers([streams[place] for place in texts], (256,), 1e-3, 30, 128, 0, "silu")
    heads = np.full(len(tasks), np.nan)
    heads[texts] = np.asarray(private) / 100.0
    return {
        "logistic regression a task": _constant(alone),
        "private output layers": _constant(heads),
        "one network": shared_network(streams),
    }


def _regression(one: Stream) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1 if len(one.x) < 60 else 1.0, max_iter=2000))
    return float(model.fit(one.x, one.y).score(one.test_x, one.test_y))


def _constant(accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the curves of learners that are trained by themselves: the same whatever else is learned."""
    curves = np.repeat(accuracies[:, None], len(accuracies), axis=1)
    return np.where(np.arange(len(accuracies))[:, None] <= np.arange(len(accuracies)), curves, np.nan)


def _show(
    console: Console, tasks: Sequence[Task], curves: NDArray[np.float64], others: dict[str, NDArray[np.float64]]
) -> None:
    """Print accuracies by domain."""
    table = Table(title="Test accuracy", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("tasks", "", "right after", "at the end", *others):
        widest, left = max(map(len, heading.split()), default=0), heading in {"tasks", ""}
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading == "tasks", min_width=widest)
    columns = (np.diag(curves), curves[:, -1], *(one[:, -1] for one in others.values()))
    kinds = dict.fromkeys(task.kind for task in tasks)
    for kind in [*sorted(kinds.keys() - {"table"}), "table", None]:
        mine = [place for place, task in enumerate(tasks) if kind in {task.kind, None}]
        table.add_row(kind or "all", str(len(mine)), *(_mean(column[mine]) for column in columns))
    console.print(table)
    console.print(
        "right after, at the end: the superposed store, over HTTP. private output layers: one body for all"
        " tenants, trained on all their rows at once. one network: the same order, no contexts.",
        style="dim",
    )


def _mean(values: NDArray[np.float64]) -> str:
    return "" if np.isnan(values).any() and len(values) < 5 else f"{np.nanmean(values):.3f}"


def _new_member(console: Console, client: Client, task: Task, vectors: dict[str, NDArray[np.float32]]) -> None:
    """Ask a new tenant's task before its first row, then teach it three sentences an intent."""
    handle = _handle(client, task)
    first = handle.score(task.test_x, task.test_y)
    places = [place for label in task.labels for place in [n for n, y in enumerate(task.train_y) if y == label][:3]]
    texts, labels = [task.train_x[place] for place in places], [task.train_y[place] for place in places]
    handle.fit(texts, labels, epochs=EPOCHS, batch_size=16, seed=0)
    then = handle.score(task.test_x, task.test_y)
    alone = _regression(_rows(Task(task.key, task.kind, texts, labels, task.test_x, task.test_y), vectors))
    console.print(
        f"\nA new tenant ({task.kind}) joins the group: accuracy {first:.3f} before its first sentence. A logistic"
        f" regression on three sentences an intent has {alone:.3f}. The group knows these intents: over ten such"
        f" tenants the first three sentences made no measurable difference (docs/quality.md), here {then:.3f} on"
        f" {len(task.test_y)} test sentences.",
        highlight=False,
    )


def _compositions(console: Console, client: Client, tasks: Sequence[Task], sentences: Sentences) -> None:
    """Ask a mixture, a power, which task texts belong to, and about texts that belong to none."""
    first, other = tasks[0], tasks[1]
    console.print(f"\nComposed contexts, asked about {first.key}'s test sentences:")
    for name, context in (
        (f"mix({first.key}:0.8, {other.key}:0.2)", mixture({first.key: 0.8, other.key: 0.2})),
        (f"{first.key}^0.9", power(first.key, 0.9)),
    ):
        score = client.task(context).score(first.test_x, first.test_y)
        console.print(f"  {name}   accuracy {score:.3f}", highlight=False)
    candidates = [task.key for task in tasks[:5]]
    right = sum(
        client.locate(task.test_x[start : start + 2], candidates=candidates).best == task.key
        for task in tasks[:5]
        for start in range(0, 20, 2)
    )
    console.print(
        f"\nWhich of the first five tasks do two sentences belong to? locate is right {right} times of 50.",
        highlight=False,
    )
    own, others = (
        sum(label is None for label in client.infer(first.key, texts).labels or [])
        for texts in (first.test_x, sentences.out_of_scope)
    )
    console.print(
        f"{first.key} may abstain: it leaves {others} of {len(sentences.out_of_scope)} sentences about other things"
        f" without a label, and {own} of its own {len(first.test_x)}.",
        highlight=False,
    )
