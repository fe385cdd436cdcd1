"""Tenants' intents: 100 tenants, each with 10 intents of one domain of CLINC150 in an order of its own.

    python -m benchmarks.quality tenants

Sentences are vectors of all-MiniLM-L6-v2, the same for everybody. The store has the preset for texts, all
tenants in one group; its updates hold rows of many tenants. The second job teaches 99 tenants, and then a new
one, of whom it has seen nothing, from a copy of the same store each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.quality.report import STORE, Found, cost_of_store, cost_of_weights, timed
from experiments.datasets import clinc
from experiments.jobs import Job, Stream, private_layers, run_store
from experiments.out_of_scope import embedded
from superposed import StoreConfig, TaskSchema, WeightStore, evaluate, learn, register

TENANTS, INTENTS, NEWCOMERS = 100, 10, 10
REGRESSION = "logistic regression a tenant"
_OWN_LABELS = 1000  # added to a label, no other tenant has it
CACHE = Path.home() / ".cache/superposed/clinc-minilm.npz"
# As chosen on draws 0 to 2: `python -m benchmarks.quality tenants --tune`. Every row is sent in each pass, so that
# nothing has to be rehearsed.
PASSES = {3: 10, 10: 6, 30: 3}
STORE_SETTINGS: dict[str, Any] = {
    "network": {"outputs": 10, "expansion": 300},
    "optimizer": {"learning_rate": 5e-3},
    "rehearsal": {"ratio": 0, "own_ratio": 0},
}
PRIVATE: dict[str, Any] = {"hidden": (256, 256), "rate": 1e-3, "passes": 30, "batch": 128, "activation": "silu"}
C = {3: 10.0, 10: 10.0, 30: 10.0}
_DEEP: dict[str, Any] = {"outputs": 10, "hidden": (256, 256, 256), "activation": "relu", "expansion": 50}
TRIED: dict[str, dict[str, Any]] = {
    "three layers of 256, ReLU, expansion 50": {"network": _DEEP},
    "preset": {"network": {"outputs": 10}},
    "expansion 200": {"network": {"outputs": 10, "expansion": 200}},
    "without rehearsal": {"network": {"outputs": 10}, "rehearsal": STORE_SETTINGS["rehearsal"]},
    "without rehearsal, rate 0.005": {**STORE_SETTINGS, "network": {"outputs": 10}},
    "without rehearsal, rate 0.005, expansion 200": {**STORE_SETTINGS, "network": {"outputs": 10, "expansion": 200}},
    "without rehearsal, rate 0.005, expansion 300": STORE_SETTINGS,
}
TRIED_PRIVATE: dict[str, dict[str, Any]] = {
    f"{len(hidden)} layers, rate {rate:g}, {passes} passes": {
        "hidden": hidden,
        "rate": rate,
        "passes": passes,
        "batch": 128,
        "activation": "silu",
    }
    for hidden in ((256,), (256, 256))
    for rate in (1e-3, 3e-3)
    for passes in (10, 30)
}


@lru_cache(maxsize=1)
def vectors() -> dict[str, NDArray[np.float32]]:
    """Return the sentences' vectors by split; they are kept, as they take two minutes."""
    if CACHE.exists():
        with np.load(CACHE) as kept:
            return dict(kept)
    found = embedded()
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    np.savez(CACHE, **found)  # type: ignore[arg-type]  # arrays by name
    return found


@dataclass(frozen=True)
class Drawn:
    """One tenant's sentences by their places in CLINC150's parts, to learn and to test, and their classes.

    Its intents are numbered through all of CLINC150, by domain.
    """

    intents: tuple[int, ...]
    learned: NDArray[np.int64]
    classes: NDArray[np.int64]
    tested: NDArray[np.int64]
    test_classes: NDArray[np.int64]


def drawn(draw: int, rows: int, tenants: int = TENANTS) -> list[Drawn]:
    """Return each tenant's `rows` sentences an intent, and all test sentences of its intents."""
    data, random, made = clinc(), np.random.default_rng(draw), []
    named = {split: np.asarray([intent for _, intent in data.sentences[split]]) for split in ("train", "test")}
    domains = list(data.domains.values())
    numbers = {intent: number for number, intent in enumerate(one for domain in domains for one in domain)}
    for _ in range(tenants):
        intents = random.permutation(list(domains[random.integers(len(domains))]))[:INTENTS]
        learned, tested = [], []
        for intent in intents:
            places = np.flatnonzero(named["train"] == intent)
            learned.append(random.choice(places, rows, replace=False))
            tested.append(np.flatnonzero(named["test"] == intent))
        classes, test_classes = (
            np.repeat(np.arange(INTENTS), [len(one) for one in part]) for part in (learned, tested)
        )
        order = random.permutation(len(classes))
        own = tuple(numbers[intent] for intent in intents)
        made.append(Drawn(own, np.concatenate(learned)[order], classes[order], np.concatenate(tested), test_classes))
    return made


def streams(draw: int, rows: int, tenants: int = TENANTS, *, labelled: bool = False) -> list[Stream]:
    """Return the drawn sentences as vectors; labels are the intents' numbers, or places in the tenant's order."""
    # Vectors have length 1: this makes their numbers about 1.
    scale = float(np.sqrt(384))
    train, test = (vectors()[split].astype(np.float64) * scale for split in ("train", "test"))
    made = []
    for one in drawn(draw, rows, tenants):
        of = np.asarray(one.intents if labelled else range(INTENTS))
        labels = one.intents if labelled else None
        made.append(
            Stream(train[one.learned], of[one.classes], test[one.tested], of[one.test_classes], INTENTS, labels)
        )
    return made


def regression(several: list[Stream], c: float) -> list[float]:
    """Fit a logistic regression for each tenant on all its rows; accuracies in percent."""
    scale = float(np.sqrt(384))
    return [
        100.0
        * float(LogisticRegression(C=c, max_iter=2000).fit(one.x / scale, one.y).score(one.test_x / scale, one.test_y))
        for one in several
    ]


def store(several: list[Stream], draw: int, rows: int, settings: dict[str, Any]) -> tuple[list[float], WeightStore]:
    """Teach a store all tenants; accuracies in percent, and the store."""
    job = Job(lambda _: several, batch=128, passes=PASSES[rows], group=True, mixed=True, scaling="none")
    return run_store(job, several, StoreConfig.of_preset("texts", settings), draw)


def run(draw: int, rows: int) -> Found:
    """Measure one draw."""
    several = streams(draw, rows)
    (each, taught), seconds = timed(lambda: store(several, draw, rows, STORE_SETTINGS))
    (private, weights), of_private = timed(lambda: private_layers(several, seed=draw, **PRIVATE))
    alone, of_regression = timed(lambda: regression(several, C[rows]))
    return Found(
        accuracy={STORE: each, REGRESSION: alone, "private output layers": private},
        cost={
            STORE: cost_of_store(taught, seconds),
            REGRESSION: cost_of_weights(len(several) * (384 + 1) * INTENTS, of_regression),
            "private output layers": cost_of_weights(weights, of_private),
        },
    )


def newcomer(draw: int, rows: int = 10) -> Found:
    """Measure new tenants of a body that 99 others have taught: before their first row, and after one update.

    The update holds three sentences an intent. A newcomer's labels are intents that others know too, or its own.
    """
    several = streams(draw, rows, TENANTS - 1 + NEWCOMERS, labelled=True)
    _, taught = store(several[: TENANTS - 1], draw, rows, STORE_SETTINGS)
    data = taught.to_bytes()
    found: dict[str, list[float]] = {}
    for one in several[TENANTS - 1 :]:
        few = np.concatenate([np.flatnonzero(one.y == label)[:3] for label in np.unique(one.y)])
        for name, other in ((STORE, 0), (f"{STORE}, labels of its own", _OWN_LABELS)):
            own = WeightStore.from_bytes(data)
            labels = tuple(label + other for label in one.labels or ())
            register(own, TaskSchema(key="new", inputs=384, outputs=INTENTS, labels=labels, group="group"))
            found.setdefault(f"{name}, before its first row", []).append(accuracy(own, one, other))
            learn(own, "new", one.x[few], (one.y[few] + other).tolist())
            found.setdefault(name, []).append(accuracy(own, one, other))
        few_alone = Stream(one.x[few], one.y[few], one.test_x, one.test_y, INTENTS)
        found.setdefault(REGRESSION, []).extend(regression([few_alone], C[3]))
    return Found(accuracy=found, cost={})


def accuracy(own: WeightStore, one: Stream, other: int) -> float:
    """Return the newcomer's accuracy in percent; its labels are others by a number."""
    return 100.0 * float(evaluate(own, "new", one.test_x, (one.test_y + other).tolist()).accuracy or 0.0)


def tried(rows: int) -> dict[str, Callable[[int], list[float]]]:
    """Return what is tried on the draws for tuning; the store's settings at 3 rows alone."""

    def of_regression(draw: int, c: float) -> list[float]:
        return regression(streams(draw, rows), c)

    def of_store(draw: int, settings: dict[str, Any]) -> list[float]:
        return store(streams(draw, rows), draw, rows, settings)[0]

    def of_private(draw: int, settings: dict[str, Any]) -> list[float]:
        return private_layers(streams(draw, rows), seed=draw, **settings)[0]

    found: dict[str, Callable[[int], list[float]]]
    found = {f"logistic regression, C={c:g}": partial(of_regression, c=c) for c in (1.0, 10.0, 100.0, 1000.0)}
    if rows == min(PASSES):
        found |= {f"store, {name}": partial(of_store, settings=one) for name, one in TRIED.items()}
    return found | {f"private, {name}": partial(of_private, settings=one) for name, one in TRIED_PRIVATE.items()}
