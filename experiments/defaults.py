"""The sweep that chooses the defaults: one setting changed at a time, on all development jobs at once."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.jobs import JOBS, Job, permutations, run_store
from experiments.report import machine, write_json
from superposed.config import StoreConfig

__all__ = ["VARIANTS", "run", "table"]

# The jobs in a size that lets every setting be tried: fewer rows or passes than those reported.
_JOBS: dict[str, Job] = {
    "tables": JOBS["tables"],
    "digit-users": replace(JOBS["digit-users"], passes=3),
    "mnist-users": replace(JOBS["mnist-users"], passes=10),
    "permutations": replace(JOBS["permutations"], streams=lambda draw: permutations(draw, rows=12_800)),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "SiLU": {"network": {"activation": "silu"}},
    "GELU": {"network": {"activation": "gelu"}},
    "one hidden layer": {"network": {"hidden": (256,)}},
    "two hidden layers": {"network": {"hidden": (256, 256)}},
    "SiLU and two hidden layers": {"network": {"activation": "silu", "hidden": (256, 256)}},
    "no normalisation": {"network": {"normalisation": "none"}},
    "expansion 1": {"network": {"expansion": 1}},
    "expansion 16": {"network": {"expansion": 16}},
    "expansion 50": {"network": {"expansion": 50}},
    "Adam 1.5e-4": {"optimizer": {"learning_rate": 1.5e-4}},
    "Adam 5e-4": {"optimizer": {"learning_rate": 5e-4}},
    "Adam 2e-3": {"optimizer": {"learning_rate": 2e-3}},
    "RMSprop 3e-4": {"optimizer": {"name": "rmsprop", "learning_rate": 3e-4}},
    "SGD 0.05": {"optimizer": {"name": "sgd", "learning_rate": 0.05}},
    "one step": {"optimizer": {"steps": 1}},
    "six steps": {"optimizer": {"steps": 6}},
    "nothing kept": {"rehearsal": {"rows_per_task": 0}},
    "50 rows": {"rehearsal": {"rows_per_task": 50}},
    "200 rows": {"rehearsal": {"rows_per_task": 200}},
    "no rows of its own": {"rehearsal": {"own_ratio": 0.0}},
    "at least 8 rows": {"rehearsal": {"least_rows": 8}},
    "at least 64 rows": {"rehearsal": {"least_rows": 64}},
    "labels only": {"rehearsal": {"logit_share": 0.0}},
    "logits 0.2": {"rehearsal": {"logit_share": 0.2}},
    "logits 0.8": {"rehearsal": {"logit_share": 0.8}},
}


def run(results: Path, draws: Sequence[int], variants: Sequence[str]) -> Path:
    """Run what has no result yet; write `results/sweep.json` after each run, and the table at the end."""
    file = results / "sweep.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    for draw in draws:
        for variant in variants or VARIANTS:
            config = StoreConfig.of_preset("general", VARIANTS[variant])
            for name, job in _JOBS.items():
                place = f"{variant} / {name} / {draw}"
                if found["runs"].get(place, {}).get("config") == config.model_dump(mode="json"):
                    continue
                began = time.perf_counter()
                each, _ = run_store(job, job.streams(draw), config, draw)
                found["runs"][place] = {
                    "config": config.model_dump(mode="json"),
                    "mean": float(np.mean(each)),
                    "worst": min(each),
                    "seconds": round(time.perf_counter() - began, 1),
                }
                found["machine"] = machine()
                write_json(file, found)
                tqdm.write(f"{place}: {found['runs'][place]['mean']:.2f}")
    (results / "table.md").write_text(table(found))
    return results / "table.md"


def table(found: dict[str, Any]) -> str:
    """Return the sweep as a table: the mean of each job over the draws, and over the jobs."""
    lines = ["| setting | " + " | ".join(_JOBS) + " | mean | seconds |", "|---" * (len(_JOBS) + 3) + "|"]
    for variant in VARIANTS:
        runs = {
            name: [one for place, one in found["runs"].items() if place.startswith(f"{variant} / {name} / ")]
            for name in _JOBS
        }
        if not all(runs.values()):
            continue
        means = [float(np.mean([one["mean"] for one in several])) for several in runs.values()]
        seconds = sum(float(np.mean([one["seconds"] for one in several])) for several in runs.values())
        cells = [*(f"{mean:.1f}" for mean in means), f"{np.mean(means):.1f}", f"{seconds:.0f}"]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
