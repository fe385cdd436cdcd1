"""Pictures of results, drawn from their JSON files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.names import linked, run_name

__all__ = ["plot_permuted", "style_axes"]


def style_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Give every picture one look: light grid, no box, labelled axes."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plot_permuted(results: Path) -> Path:
    """Plot accuracy on task 1 and mean accuracy against the number of tasks, for every result in a folder.

    Writes `permuted-mnist.png` and `table.md` beside the results; returns the picture's path.
    """
    runs: dict[str, dict[str, Any]] = {
        path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))
    }
    (results / "table.md").write_text(_table(runs))
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]  # of listed colours only
    # Best first, so that the legend reads in the order of the curves' ends.
    # Further seeds are in the table; a curve each would only crowd the picture.
    drawn = {name: run for name, run in runs.items() if run["config"]["seed"] == 0}
    order = sorted(drawn, key=lambda name: -drawn[name]["mean"][-1])
    for place, name in enumerate(order):
        for axes, field in zip(panels, ("mean", "task_1"), strict=True):
            values = runs[name][field]
            measured = [(tasks, value) for tasks, value in enumerate(values, 1) if value is not None]
            axes.plot(
                *zip(*measured, strict=True),
                label=run_name(name),
                marker="." if None in values else None,
                color=colours[place % len(colours)],
                linewidth=1.6,
            )
    style_axes(panels[0], "Mean over all tasks learned so far", "tasks learned", "test accuracy (%)")
    style_axes(panels[1], "Task 1", "tasks learned", "")
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("Permuting MNIST, strictly one task after another", x=0.01, ha="left")
    path = results / "permuted-mnist.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _table(runs: dict[str, dict[str, Any]]) -> str:
    """Return accuracies on the test set, and their costs, as a Markdown table, best mean first."""
    headings = ["run", "weights", "tasks", "mean after 10", "after 25", "after 50", "after 100", "after 250"]
    headings += ["task 1 at the end", "MB resident", "MB on disk", "M rows of gradient", "minutes"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name in sorted(runs, key=lambda name: -runs[name]["mean"][-1]):
        mean, last = runs[name]["mean"], runs[name]["task_1"][-1]
        cells = [
            f"{mean[count - 1]:.1f}" if len(mean) >= count and mean[count - 1] is not None else ""
            for count in (10, 25, 50, 100, 250)
        ]
        cells = [linked(name, f"{name}.json"), f"{runs[name]['weights']:,}", str(len(mean)), *cells, f"{last:.1f}"]
        lines.append(f"| {' | '.join([*cells, *_costs(runs[name])])} |")
    return "\n".join(lines) + "\n"


def _costs(run: dict[str, Any]) -> list[str]:
    """Return MB with contexts, MB with kept rows (older results have none), rows and minutes.

    All of it before any consolidation, as the means beside it are.
    """
    config, tasks = run["config"], len(run["mean"])
    taken = run.get("bytes")
    bytes_ = ["", ""] if taken is None else [f"{taken[kind] / 1e6:.1f}" for kind in ("resident", "disk")]
    # Beside the first task there is nothing to rehearse yet.
    batches = 2 * tasks - 1 if "rehearsed" in config["method"] else tasks
    rows = batches * config["steps"] * config["batch"]
    return [*bytes_, f"{rows / 1e6:.1f}", f"{run['seconds_learning'] / 60:.0f}"]
