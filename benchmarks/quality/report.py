"""Tables of accuracies by job and learner, with paired differences from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

STORE = "superposed store"
TUNING, REPORTED = (0, 1, 2), (3, 4, 5)

# Of one draw: accuracy of each task in percent, by learner; other numbers by what they are.
Found = dict[str, Any]


def summary(draws: Sequence[Found]) -> dict[str, Any]:
    """Return each learner's mean accuracy over draws, and the store's less it with two standard errors."""
    learners = [name for name, value in draws[0].items() if isinstance(value, list)]
    means = {name: [float(np.mean(one[name])) for one in draws] for name in learners}
    found: dict[str, Any] = {"learners": {}}
    for name in learners:
        differences = np.asarray(means[STORE]) - np.asarray(means[name])
        error = float(differences.std(ddof=1) / np.sqrt(len(draws))) if len(draws) > 1 else float("nan")
        found["learners"][name] = {
            "accuracy": float(np.mean(means[name])),
            "by draw": means[name],
            "store less it": float(differences.mean()),
            "two standard errors": 2 * error,
        }
    others = [name for name in draws[0] if name not in learners]
    return found | {name: float(np.mean([one[name] for one in draws])) for name in others}
