"""The README's table: four measurements beside what people use today, read from the committed results.

python -m benchmarks.summary    writes docs/results/summary/table.md
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def read(path: str) -> Any:
    return json.loads((RESULTS / path).read_text())


def last_accuracy(name: str) -> float:
    return float(read(f"rehearsal/{name}.json")["mean"][-1])


def users_accuracy(name: str) -> float:
    return mean(read(f"personalisation/{name}-seed{seed}.json")["mean"] for seed in range(3))


def rows() -> list[tuple[str, str, str]]:
    store = last_accuracy("phase-rehearsed-256-layernorm-centred-boundbias-rows6000-adam-0.0001")
    separate = last_accuracy("separate-256-layernorm-centred-boundbias-steps2000-tasks100-rmsprop-3e-05")
    serving = read("benchmarks/serving.json")
    peer, name = serving["requests_over_best_peer"], serving["best_peer"]
    [batch] = [
        row
        for row in read("benchmarks/forward.json")["rows"]
        if (row["family"], row["tasks"], row["width"], row["rows"]) == ("phase", 1000, 256, 1024)
    ]
    return [
        (
            "100 permuted-MNIST tasks, one after another: accuracy",
            f"{store:.1f} % (with rehearsal)",
            f"{separate:.1f} %: one network a task, as many weights in all",
        ),
        (
            "50 users with 100 labelled rows each: accuracy",
            f"{users_accuracy('permuted-group-2'):.1f} % (grouped contexts)",
            f"{users_accuracy('permuted-own-outputs'):.1f} %: shared layers, a private output layer a user",
        ),
        (
            "One-row requests for 100 tasks, 64 connections: rate",
            f"{peer['superposed, JSON']:.1f} × (JSON), {peer['superposed, binary']:.1f} × (binary)",
            f"1.0 ×: {name} with a dict of models",
        ),
        (
            "One batch of 1,024 rows of 1,000 tasks: time",
            f"{1 / batch['ratio']:.2f} ×",
            "1.00 ×: one plain network of the same size",
        ),
    ]


def main() -> None:
    lines = ["| measurement | superposed store | compared with |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows()]
    (RESULTS / "summary").mkdir(exist_ok=True)
    (RESULTS / "summary" / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
