"""Out-of-scope sentences of CLINC150: which score tells them from a task's own, and what a threshold keeps.

Two jobs: a tenant for each of ten domains with its 15 intents, and one task of all 150, in one store with
the preset for texts. The scores are the distance that `abstain` uses, and four of the same task's logits.
Reported are the area under the ROC curve, the accuracy on a task's own sentences at the threshold that turns
95 % of the others away, and the effect of `abstain=0.05`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.datasets import clinc
from experiments.report import machine, write_json
from superposed import TaskSchema, WeightStore, learn, register, seeded_secret
from superposed.analysis.scope import Scope
from superposed.config import StoreConfig
from superposed.encoders import Encoder, open_encoder

SPEC = "sentence-transformers:all-MiniLM-L6-v2"
ABSTAIN = 0.05
_BATCH = 32


def embedded() -> dict[str, NDArray[np.float32]]:
    """Return CLINC150's sentences as vectors (n, 384), by split; `oos` are those of no intent."""
    data = clinc()
    with tempfile.TemporaryDirectory() as folder:
        encoder = open_encoder(SPEC, Path(folder) / "encoder")
        found = {split: _encoded(encoder, [text for text, _ in data.sentences[split]]) for split in ("train", "test")}
        return found | {"oos": _encoded(encoder, data.out_of_scope)}


def _encoded(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    parts = [encoder.encode(texts[start : start + 256]) for start in tqdm(range(0, len(texts), 256), unit="texts")]
    return np.concatenate(parts).astype(np.float32)


def run(draws: list[int], per_class: tuple[int, ...], results: Path) -> dict[str, Any]:
    """Measure every job and number of rows a class, and write one file.

    Args:
        draws: Seeds of which sentences are learned.
        per_class: Sentences of each intent, and the passes over them are 3.
        results: The file.
    """
    torch.set_num_threads(1)
    data, vectors = clinc(), embedded()
    intents = {split: np.asarray([intent for _, intent in data.sentences[split]]) for split in ("train", "test")}
    jobs: dict[str, Sequence[Sequence[str]]]
    jobs = {"tenants of 15 intents": list(data.domains.values()), "one task of 150 intents": [data.labels]}
    values: dict[str, Any] = {"machine": machine(), "draws": draws, "abstain": ABSTAIN, "jobs": {}}
    for name, tasks in jobs.items():
        for count in per_class:
            measured = [one for draw in draws for one in _job(draw, count, tasks, vectors, intents)]
            values["jobs"][f"{name}, {count} sentences an intent"] = {
                field: float(np.mean([one[field] for one in measured])) for field in measured[0]
            }
            write_json(results, values)
    return values


def _job(
    draw: int,
    count: int,
    tasks: Sequence[Sequence[str]],
    vectors: dict[str, NDArray[np.float32]],
    intents: dict[str, NDArray[Any]],
) -> list[dict[str, float]]:
    random = np.random.default_rng(draw)
    outputs = max(len(labels) for labels in tasks)
    config = StoreConfig.of_preset("texts", {"network": {"outputs": outputs}})
    store = WeightStore(config, secret=seeded_secret(draw))
    chosen = {}
    for number, labels in enumerate(tasks):
        key = f"t{number}"
        register(store, TaskSchema(key=key, inputs=384, outputs=len(labels), labels=tuple(labels), scaling="running"))
        chosen[key] = np.concatenate(
            [random.choice(np.flatnonzero(intents["train"] == one), count, replace=False) for one in labels]
        )
        for _ in range(3):
            order = random.permutation(chosen[key])
            for start in range(0, len(order), _BATCH):
                part = order[start : start + _BATCH]
                targets = intents["train"][part].tolist()
                learn(store, key, vectors["train"][part], targets, steps=config.optimizer.steps)
    return [_measured(store, f"t{number}", list(labels), vectors, intents) for number, labels in enumerate(tasks)]


def _measured(
    store: WeightStore,
    key: str,
    labels: list[str],
    vectors: dict[str, NDArray[np.float32]],
    intents: dict[str, NDArray[Any]],
) -> dict[str, float]:
    mine = np.isin(intents["test"], labels)
    own, other = vectors["test"][mine], vectors["oos"]
    answers, beside = (_logits(store, key, rows)[:, : len(labels)] for rows in (own, other))
    right = np.asarray(labels)[answers.argmax(1)] == intents["test"][mine]
    rows, classes = store.replay_buffer.rows_of(key, 384)
    scope = Scope.of(rows, classes, ABSTAIN)
    if scope is None:
        raise ValueError("too few rows are kept")
    scores = {"distance": (scope.nearness(own), scope.nearness(other))}
    scores |= {name: (of(answers), of(beside)) for name, of in _OF_LOGITS.items()}
    found = {"accuracy": float(right.mean())}
    for name, (here, there) in scores.items():
        kept = here > np.quantile(there, 0.95)
        found[f"area, {name}"] = _area(here, there)
        found[f"right and answered at 95 %, {name}"] = float((right & kept).mean())
    left, turned = scores["distance"][0] < scope.threshold, scores["distance"][1] < scope.threshold
    return found | {
        "own sentences left without a label": float(left.mean()),
        "other sentences left without a label": float(turned.mean()),
    }


def _logits(store: WeightStore, key: str, rows: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(
        [store.answers(store.batch(key, rows[at : at + 512])).numpy() for at in range(0, len(rows), 512)]
    )


def _energy(logits: NDArray[Any]) -> NDArray[Any]:
    top = logits.max(1)
    energy: NDArray[Any] = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return energy


_OF_LOGITS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "largest probability": lambda logits: np.exp(logits.max(1) - _energy(logits)),
    "largest logit": lambda logits: logits.max(1),
    "energy": _energy,
    "energy above the mean": lambda logits: _energy(logits) - logits.mean(1),
}


def _area(here: NDArray[Any], there: NDArray[Any]) -> float:
    """Return the area under the ROC curve; a tie counts half."""
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.ones(len(here)), np.zeros(len(there))]
    return float(roc_auc_score(truth, np.r_[here, there]))
