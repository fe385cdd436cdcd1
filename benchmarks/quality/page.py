"""docs/quality.md: a table and a picture a job, from what the commands wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.quality.report import STORE
from benchmarks.tables import table

PAGE = Path("docs/quality.md")
TITLES = {
    "tenants": ("Tenants' intents", "100 tenants, 10 intents of one domain of CLINC150 each, in an order of its own"),
    "newcomer": ("A new tenant", "10 new tenants of a body that 99 others have taught with 10 rows an intent"),
    "setfit": ("The encoder itself fine-tuned", "the first 10 of those tenants; SetFit's defaults, 90 MB a tenant"),
    "alphabets": ("Alphabets", "24 tasks of 8 characters of Omniglot, 15 drawings a character"),
}


_HEADINGS = (
    "",
    "learner",
    "accuracy",
    "the store's less it",
    "weights, MB",
    "contexts, MB",
    "kept rows, MB",
    "seconds",
)


def _rows(summaries: dict[str, Any]) -> list[list[str]]:
    lines = []
    for title, found in summaries.items():
        for name, one in found.items():
            difference = f"{one['store less it']:+.2f} ± {one['two standard errors']:.2f}"
            cost = one.get("cost")
            costs = [f"{cost[what] / 1e6:.2f}" for what in ("weights", "contexts", "kept")] if cost else [""] * 3
            seconds = f"{cost['seconds']:.0f}" if cost else ""
            shown = "" if name == STORE else difference
            lines.append([title, name, f"{one['accuracy']:.1f}", shown, *costs, seconds])
    return lines


def _picture(file: Path, summaries: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    learners = list(dict.fromkeys(name for found in summaries.values() for name in found))
    width = 0.8 / len(learners)
    for number, name in enumerate(learners):
        heights = [found.get(name, {}).get("accuracy", float("nan")) for found in summaries.values()]
        places = [place + width * (number - (len(learners) - 1) / 2) for place in range(len(heights))]
        axes.bar_label(axes.bar(places, heights, width, label=name), fmt="%.1f", fontsize=7)
    lowest = min(one["accuracy"] for found in summaries.values() for one in found.values())
    axes.set(
        xticks=range(len(summaries)), xticklabels=list(summaries), ylabel="accuracy, %", ylim=(max(0, lowest - 5), 101)
    )
    figure.legend(fontsize=7, loc="outside lower center", ncols=3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _summaries(results: Path) -> dict[str, Any]:
    files = {name: results / f"{name}.json" for name in TITLES}
    found = {name: json.loads(file.read_text())["summary"] for name, file in files.items() if file.exists()}
    return {name: _ordered(summaries) for name, summaries in found.items()}


def _ordered(summaries: dict[str, Any]) -> dict[str, Any]:
    """Return few rows before many, and the store before what it is compared with."""

    def rows(title: str) -> int:
        first = title.split()[0]
        return int(first) if first.isdigit() else 0

    def apart(name: str) -> tuple[bool, str]:
        return not name.startswith(STORE), name

    return {title: {name: summaries[title][name] for name in sorted(summaries[title], key=apart)}
            for title in sorted(summaries, key=rows)}  # fmt: skip


def quality_page(results: Path) -> str:
    """Return the page, from the results."""
    parts = [
        f"## {title}\n\n`python -m benchmarks.quality {name}`: {what}; mean of three draws, in percent.\n\n"
        f"{table(list(_HEADINGS), _rows(summaries))}\n\n![{title}](results/quality/{name}.png)\n"
        for name, summaries in _summaries(results).items()
        for title, what in [TITLES[name]]
    ]
    return "\n".join([_HEAD, *parts, _TAIL])


def write_page(results: Path) -> None:
    """Write the page and its pictures."""
    for name, summaries in _summaries(results).items():
        _picture(results / f"{name}.png", summaries)
    PAGE.write_text(quality_page(results))


_HEAD = """# What it learns, beside what people use today

Every table here is made by `python -m benchmarks.quality page` from the JSON in `docs/results/quality/`, which the
named commands made. Settings of the store and of each baseline were chosen on draws 0 to 2, the tenants' at three
rows an intent (`--tune`; what was tried is in `docs/results/quality/tuning-*.json`); the figures are of draws 3 to 5.
A difference is the store's accuracy less the learner's on the same draws, ± two standard errors. Weights and kept rows
are on the disk; contexts are made from the task's key, and what stands here is the memory that keeps them at hand.
Seconds are of learning all tasks, beside one other process on two cores. Tables, users, single rows and permuted
images: [what the defaults learn](experiments/learning.md).
"""

_TAIL = """## Where separate models remain the better choice

- With 30 sentences an intent a logistic regression a tenant knows as much as the store. It learns a hundred times as
  fast, and no tenant's weights depend on another's.
- Private output layers on a shared body are as accurate as the store, with half of its weights, where all tenants'
  rows are at hand at once: for a nightly job they are the simpler choice. The store learns as rows come, keeps its
  size for the next tenants, and starts a newcomer from what others with the same labels know.
- Pictures that a ConvNet learns strictly one task after another stay behind private output layers that see all rows
  at once; taught together they are as good.
- Unrelated tables with all rows at hand: a small network for each is half a point better
  ([what the defaults learn](experiments/learning.md)).
"""
