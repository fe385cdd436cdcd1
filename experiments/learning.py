"""Measurement of what defaults and presets learn, beside what people use today, on draws that chose nothing.

Settings of store and baselines were chosen on draw 0 (`python -m experiments defaults`, and the figures in
`_TUNED`); reports are on draws 3 to 5.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.datasets import sklearn_dataset
from experiments.jobs import JOBS, Job, Stream, baselines, private_layers, private_stream, run_store
from experiments.report import machine, write_json
from superposed.config import StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.online import evaluate, learn
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema

__all__ = ["REPORTS", "run", "table"]

Found = dict[str, Any]

# Learning rate, passes and hidden layers of private output layers, as tuned on draw 0.
_TUNED: dict[str, dict[str, Any]] = {
    "digit-users": {"rate": 1e-3, "passes": 100, "batch": 32, "hidden": (256, 256), "stream rate": 1e-3},
    "mnist-users": {"rate": 1e-3, "passes": 30, "batch": 128, "hidden": (195, 195, 195)},
}
# 317,230 weights and 14,925 numbers' worth of binary contexts, where private output layers have 327,515.
_MNIST_USERS: dict[str, Any] = {
    "family": "binary",
    "network": {"hidden": (190, 190, 190), "expansion": 50},
    "optimizer": {"learning_rate": 3e-3, "steps": 1},
    "rehearsal": {"rows_per_task": 0},
}


def _store(job: Job, config: StoreConfig) -> Callable[[int], Found]:
    def taught(draw: int) -> Found:
        each, store = run_store(job, job.streams(draw), config, draw)
        return {"superposed store": each, "weights": store.weight_bytes // 4, "kept": store.replay_buffer.bytes}

    return taught


def _tables(draw: int) -> Found:
    job = JOBS["tables"]
    return _store(job, StoreConfig())(draw) | baselines(job.streams(draw))


def _users(name: str, config: StoreConfig) -> Callable[[int], Found]:
    def taught(draw: int) -> Found:
        job, tuned = JOBS[name], _TUNED[name]
        streams = job.streams(draw)
        private, weights = private_layers(
            streams, tuned["hidden"], tuned["rate"], tuned["passes"], tuned["batch"], draw
        )
        found = _store(job, config)(draw) | {
            "private output layers, all rows at once": private,
            "their weights": weights,
        }
        if not job.mixed:
            found["private output layers, same order, replay"] = private_stream(
                job, streams, tuned["hidden"], tuned["stream rate"], 3, draw
            )
        return found | {"logistic regression": baselines(streams)["logistic regression"]}

    return taught


def _demo(draw: int) -> Found:
    """Teach the demo's tables and permuted digits, 17 tasks; the first right after, and at the end."""
    digits = sklearn_dataset("digits")
    tables = [sklearn_dataset(name) for name in ("breast_cancer", "wine", "iris")]
    tasks = [digits, *tables, *(digits.permuted(100 * draw + seed) for seed in range(1, 14))]
    streams = [
        Stream(one.train_x.astype(np.float64), one.train_y, one.test_x.astype(np.float64), one.test_y,
               len(one.labels))
        for one in tasks
    ]  # fmt: skip
    first: list[float] = []

    def watch(store: WeightStore, task: int) -> None:
        if task == 0:
            first.append(
                100.0 * float(evaluate(store, "t0", streams[0].test_x, streams[0].test_y.tolist()).accuracy or 0)
            )

    job = Job(lambda _: streams, batch=32, passes=5)
    each, _ = run_store(job, streams, StoreConfig(), draw, after=watch)
    return {"superposed store": each, "first task right after": first, "first task at the end": each[:1]}


def _rows(draw: int) -> Found:
    """Predict each row of river's bundled streams, then learn it; accuracy over all rows (percent)."""
    names = ("compose", "datasets", "linear_model", "multiclass", "preprocessing")
    compose, datasets, linear_model, multiclass, preprocessing = (
        importlib.import_module(f"river.{name}") for name in names
    )
    ours, theirs = [], []
    for name in ("Phishing", "Bananas", "ImageSegments"):
        rows = [(list(x.values()), y, x) for x, y in getattr(datasets, name)()]
        order = np.random.default_rng(draw).permutation(len(rows))[:2000]
        labels = sorted({str(rows[place][1]) for place in range(len(rows))})
        regression: Any = linear_model.LogisticRegression()
        if len(labels) > 2:
            regression = multiclass.OneVsRestClassifier(regression)
        model = compose.Pipeline(preprocessing.StandardScaler(), regression)
        store = WeightStore(StoreConfig(), secret=seeded_secret(draw))
        schema = TaskSchema(
            key="a", inputs=len(rows[0][0]), outputs=len(labels), labels=tuple(labels), scaling="running"
        )
        store.register(schema)
        right = [0, 0]
        for place in order:
            values, label, named = rows[place]
            right[1] += model.predict_one(named) == label
            model.learn_one(named, label)
            right[0] += (learn(store, "a", [values], [str(label)]).accuracy or 0.0) == 1.0
        ours.append(100.0 * right[0] / len(order))
        theirs.append(100.0 * right[1] / len(order))
    return {"superposed store": ours, "river's logistic regression": theirs}


REPORTS: dict[str, tuple[str, Callable[[int], Found]]] = {
    "tables": ("30 unrelated tables, 300 rows each, one pass", _tables),
    "digit-users": (
        "30 users x 60 digits, own order of labels, one after another",
        _users("digit-users", StoreConfig.of_preset("users")),
    ),
    "mnist-users": (
        "50 users x 100 MNIST rows, permuted labels, equal weights",
        _users("mnist-users", StoreConfig.of_preset("users", _MNIST_USERS)),
    ),
    "rows": ("one row at a time, predict then learn, river's streams", _rows),
    "demo": ("the demo's tasks, 17 of them, one after another", _demo),
}


def run(results: Path, draws: Sequence[int], reports: Sequence[str]) -> Path:
    """Run what has no result yet; write `results/learning.json` after each run, and the table at the end."""
    file = results / "learning.json"
    found: Found = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    warnings.filterwarnings("ignore", module="sklearn")
    for name in reports or REPORTS:
        for draw in draws:
            place = f"{name} / {draw}"
            if place in found["runs"]:
                continue
            found["runs"][place] = REPORTS[name][1](draw)
            found["machine"] = machine()
            write_json(file, found)
            tqdm.write(f"{place}: {np.mean(found['runs'][place]['superposed store']):.2f}")
    (results / "table.md").write_text(table(found))
    return results / "table.md"


def table(found: Found) -> str:
    """Return each job's accuracy, and its difference from each baseline with 2 standard errors over draws."""
    lines = ["| job | learner | accuracy | the store's less this one's, ± 2 standard errors |", "|---|---|---|---|"]
    for name, (title, _) in REPORTS.items():
        runs = [one for place, one in found["runs"].items() if place.startswith(f"{name} / ")]
        if not runs:
            continue
        for learner in [key for key, value in runs[0].items() if isinstance(value, list)]:
            means = np.asarray([np.mean(one[learner]) for one in runs])
            ours = np.asarray([np.mean(one["superposed store"]) for one in runs]) - means
            error = 2.0 * ours.std(ddof=1) / np.sqrt(len(ours)) if len(ours) > 1 else float("nan")
            shown = "" if learner == "superposed store" else f"{ours.mean():+.2f} ± {error:.2f}"
            lines.append(f"| {title} | {learner} | {means.mean():.2f} | {shown} |")
    return "\n".join(lines) + "\n"
