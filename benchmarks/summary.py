"""The README's table: measurements beside what people use today, read from the committed results.

python -m benchmarks.summary    writes docs/results/summary/table.md
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

STORE, REGRESSION = "superposed store", "logistic regression a tenant"
_PRIVATE = "private output layers, all rows at once"
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def read(path: str) -> Any:
    return json.loads((RESULTS / path).read_text())


def last_accuracy(name: str) -> float:
    return float(read(f"rehearsal/{name}.json")["mean"][-1])


def job_accuracy(job: str, learner: str) -> float:
    runs = read("learning/learning.json")["runs"]
    return mean(mean(run[learner]) for place, run in runs.items() if place.startswith(f"{job} / "))


def quality(job: str, learner: str) -> float:
    return float(read(f"quality/{job}.json")["summary"]["3 rows an intent"][learner]["accuracy"])


def rows() -> list[tuple[str, str, str]]:
    store = last_accuracy(
        "phase-rehearsed-300-silu-layernorm-centred-boundbias-layers2-rows570-logits0.5-own0.25-adam-0.00015"
    )
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
            f"{store:.1f} % (0.5 MB of kept rows a task)",
            f"{separate:.1f} %: one network a task, as many weights in all",
        ),
        (
            "30 unrelated tables of 300 rows, one pass, defaults: accuracy",
            f"{job_accuracy('tables', 'superposed store'):.1f} %",
            f"{job_accuracy('tables', 'logistic regression'):.1f} %: a logistic regression a table, all rows",
        ),
        (
            "50 users of MNIST with 100 rows each, equal weights: accuracy",
            f"{job_accuracy('mnist-users', 'superposed store'):.1f} %",
            f"{job_accuracy('mnist-users', _PRIVATE):.1f} %: shared layers, a private output layer a user",
        ),
        (
            "100 tenants' intents, three sentences an intent: accuracy",
            f"{quality('tenants', STORE):.1f} %",
            f"{quality('tenants', REGRESSION):.1f} %: a logistic regression a tenant",
        ),
        (
            "A new tenant with labels that its group knows, before its first sentence: accuracy",
            f"{quality('newcomer', f'{STORE}, before its first row'):.1f} %",
            f"{quality('newcomer', REGRESSION):.1f} %: a logistic regression on three sentences an intent",
        ),
        (
            "One-row requests for 100 tasks, 64 connections: rate",
            f"{peer['superposed, JSON']:.1f} × (JSON), {peer['superposed, binary']:.1f} × (binary)",
            f"1.0 ×: {name} with a dict of models",
        ),
        (
            "One batch of 1,024 rows of 1,000 tasks on a CPU: time",
            f"{1 / batch['ratio']:.2f} × (without expansion)",
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
