"""Sentences of CLINC150 that ship with the demo, and the command that chose them.

    python -m demo.sentences

Source: Larson et al., "An evaluation dataset for intent classification and out-of-scope prediction", EMNLP 2019;
github.com/clinc/oos-eval, CC BY 3.0. See `data/NOTICE.md`.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "data/clinc150.json.gz"
_LEARNED, _TESTED, _OUT_OF_SCOPE = 10, 10, 100


@dataclass(frozen=True)
class Sentences:
    """Sentences to learn from and to test on, by intent, intents by domain; and others of no intent."""

    domains: dict[str, list[str]]
    learned: dict[str, list[str]]
    tested: dict[str, list[str]]
    out_of_scope: list[str]


def load_sentences() -> Sentences:
    """Return the sentences that ship with the demo."""
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        return Sentences(**json.load(file))


def main() -> None:
    """Choose sentences of the whole data set, which must be in `SUPERPOSED_DATA_DIR`."""
    from experiments.datasets import clinc

    data, random = clinc(), np.random.default_rng(0)

    def some(split: str, label: str, count: int) -> list[str]:
        return sorted(random.choice(data.texts_of(split, label), count, replace=False).tolist())

    values = {
        "domains": {name: list(labels) for name, labels in data.domains.items()},
        "learned": {label: some("train", label, _LEARNED) for label in data.labels},
        "tested": {label: some("test", label, _TESTED) for label in data.labels},
        "out_of_scope": sorted(random.choice(data.out_of_scope, _OUT_OF_SCOPE, replace=False).tolist()),
    }
    FILE.parent.mkdir(exist_ok=True)
    text = json.dumps(values, indent=0, ensure_ascii=False).encode()
    FILE.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
