"""Tables and pictures of experiments with several seeds, made from their JSON files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.names import linked
from experiments.plots import style_axes

__all__ = ["summarise"]

Runs = dict[str, list[dict[str, Any]]]

# What each experiment's table shows: heading and field of a result.
_COLUMNS: dict[str, Sequence[tuple[str, str]]] = {
    "rotating-mnist": (
        ("whole turn", "mean"),
        ("worst angle", "worst"),
        ("in gaps", "mean_in_gaps"),
        ("elsewhere", "mean_elsewhere"),
    ),
    "personalisation": (("mean over users", "mean"),),
    "incremental": (("mean over blocks", "mean"),),
    "variants": (("mean over tasks", "mean"),),
}


def summarise(experiment: str, results: Path) -> Path:
    """Write `table.md` and `<experiment>.png` beside an experiment's results; returns the picture's path."""
    runs = _by_name(experiment, results)
    tables: dict[str, Callable[[Runs], str]] = {
        "locate": _found_table,
        "capacity": _filling_table,
        "intrinsic-dimension": _directions_table,
    }
    table = tables[experiment](runs) if experiment in tables else _table(runs, _COLUMNS[experiment])
    (results / "table.md").write_text(table)
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    {
        "rotating-mnist": _draw_turns,
        "personalisation": _draw_bars,
        "incremental": _draw_bars,
        "variants": _draw_bars,
        "capacity": _draw_filling,
        "intrinsic-dimension": _draw_directions,
        "locate": _draw_found,
    }[experiment](axes, runs)
    path = results / f"{experiment}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _by_name(experiment: str, results: Path) -> Runs:
    """Return results by the name of their run, a link to the first seed's file."""
    runs: Runs = {}
    stems: dict[str, str] = {}
    for path in sorted(results.glob("*.json")):
        stem = path.stem.rpartition("-seed")[0]
        name = stems.setdefault(stem, linked(stem, path, experiment))
        runs.setdefault(name, []).append(json.loads(path.read_text()))
    return runs


def _plain(name: str) -> str:
    """Return a link's text."""
    return name.partition("]")[0].removeprefix("[")


def _statistics(values: Sequence[float]) -> tuple[float, float]:
    """Return mean over seeds, and two standard errors of it (0 for a single seed)."""
    error = 2 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), error


def _shown(values: Sequence[float]) -> str:
    mean, error = _statistics(values)
    return f"{mean:.1f} ± {error:.1f}" if len(values) > 1 else f"{mean:.1f}"


def _table(runs: Runs, columns: Sequence[tuple[str, str]]) -> str:
    lines = [
        "| run | seeds | " + " | ".join(heading for heading, _ in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in sorted(runs, key=lambda name: -_statistics([one["mean"] for one in runs[name]])[0]):
        cells = [_shown([one[field] for one in runs[name]]) for _, field in columns]
        lines.append(f"| {name} | {len(runs[name])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _found_table(runs: Runs) -> str:
    rows = []
    for name, several in runs.items():
        for statistic, sizes in several[0]["found"].items():
            order = sorted(sizes, key=int)
            cells = [_shown([one["found"][statistic][size] for one in several]) for size in order]
            rows.append([name, str(len(several)), statistic, *cells])
    return _lines(["run", "seeds", "by", "1 row", "4 rows", "16 rows"], rows)


def _filling_table(runs: Runs) -> str:
    rows = []
    for name, several in runs.items():
        for point in several[0]["points"][3::4]:
            forecast, fitted = point["forecast"], point["fitted"]
            said = "" if forecast is None else f"{forecast['estimate']} ({forecast['low']} to {forecast['high']})"
            crosstalk = [f"{point[f'crosstalk_{kind}']:.2f}" for kind in ("measured", "predicted")]
            was = "" if fitted is None else f"{fitted:.0f}"
            rows.append([name, str(point["tasks"]), f"{point['mean']:.1f}", *crosstalk, said, was])
    headings = ["run", "tasks", "mean", "crosstalk", "by the law", "said: more tasks", "there were"]
    return _lines(headings, rows)


def _directions_table(runs: Runs) -> str:
    rows = []
    for name, several in runs.items():
        by_directions = several[0]["accuracy_by_directions"]
        for key in sorted(by_directions, key=lambda key: int(key) or math.inf):
            trained = f"along {int(key):,} directions" if int(key) else "all weights"
            rows.append([name, trained, f"{by_directions[key]:.1f}"])
        by_share = several[0]["accuracy_by_share_kept"]
        for key in sorted(by_share, key=float, reverse=True):
            rows.append([name, f"all, {100 * float(key):g} % kept", f"{by_share[key]:.1f}"])
    return _lines(["run", "weights", "accuracy"], rows)


def _draw_turns(axes: Any, runs: Runs) -> None:
    for name, several in runs.items():
        accuracy = np.mean([one["accuracy"][-1] for one in several], axis=0)
        axes.plot(several[0]["angles"], accuracy, label=_plain(name), linewidth=1.5)
    style_axes(axes, "Rotating MNIST, after the last turn", "angle (turns)", "test accuracy (%)")
    axes.legend(frameon=False, fontsize=8)


def _draw_bars(axes: Any, runs: Runs) -> None:
    order = sorted(runs, key=lambda name: _statistics([one["mean"] for one in runs[name]])[0])
    means, errors = zip(*(_statistics([one["mean"] for one in runs[name]]) for name in order), strict=True)
    axes.barh([_plain(name) for name in order], means, xerr=errors, color="#4c72b0", height=0.6)
    style_axes(axes, "Mean over seeds, with two standard errors", "test accuracy (%)", "")


def _draw_filling(axes: Any, runs: Runs) -> None:
    for name, several in runs.items():
        points = several[0]["points"]
        axes.plot([one["tasks"] for one in points], [one["mean"] for one in points], label=_plain(name))
    style_axes(axes, "Mean accuracy as a store fills", "tasks", "test accuracy (%)")
    axes.legend(frameon=False, fontsize=8)


def _draw_directions(axes: Any, runs: Runs) -> None:
    for name, several in runs.items():
        found = {int(key): value for key, value in several[0]["accuracy_by_directions"].items()}
        total = several[0]["weights"]
        points = sorted((key or total, value) for key, value in found.items())
        axes.plot(*zip(*points, strict=True), marker=".", label=f"{_plain(name)}: directions")
        kept = sorted((float(key) * total, value) for key, value in several[0]["accuracy_by_share_kept"].items())
        axes.plot(*zip(*kept, strict=True), marker="x", linestyle="--", label=f"{_plain(name)}: weights kept")
    axes.set_xscale("log")
    style_axes(axes, "How little of the weights one task needs", "directions, or weights kept", "test accuracy (%)")
    axes.legend(frameon=False, fontsize=8)


def _draw_found(axes: Any, runs: Runs) -> None:
    for name, several in runs.items():
        for statistic in several[0]["found"]:
            sizes = sorted(several[0]["found"][statistic], key=int)
            shares = [np.mean([one["found"][statistic][size] for one in several]) for size in sizes]
            axes.plot(sizes, shares, marker=".", label=f"{_plain(name)}: {statistic}")
    style_axes(axes, "How often the right task is found without its key", "rows", "found (%)")
    axes.legend(frameon=False, fontsize=8)
