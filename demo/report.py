"""The demo's table and picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from demo.baselines import Curves


def show_table(console: Console, keys: Sequence[str], store: Curves, plain: Curves, separate: Curves) -> None:
    """Print the accuracy of every task right after learning it and at the end."""
    table = Table(title="Test accuracy", title_justify="left")
    table.add_column("task", no_wrap=True, min_width=17)
    for heading in ("right after", "at the end", "plain network", "separate models"):
        table.add_column(heading, justify="right")
    columns = (np.diag(store), store[:, -1], plain[:, -1], separate[:, -1])
    for place, key in enumerate(keys):
        table.add_row(key, *(f"{column[place]:.3f}" for column in columns))
    table.add_section()
    table.add_row("mean", *(f"{column.mean():.3f}" for column in columns))
    console.print(table)
    console.print(
        "right after, at the end: the superposed store, over HTTP. plain network: the same size, the same\n"
        "updates, no contexts, at the end. separate models: one a task, together as many bytes as the store.",
        style="dim",
    )


def save_curves(output: Path, keys: Sequence[str], named: Mapping[str, Curves]) -> Path:
    """Write the curves of several learners as JSON and PNG; returns the picture's path."""
    values = {
        name: [[None if np.isnan(cell) else cell for cell in row] for row in curves.tolist()]
        for name, curves in named.items()
    }
    (output / "demo.json").write_text(json.dumps({"tasks": list(keys), "curves": values}, indent=1))
    figure, (each, means) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    learned, (store, *_) = np.arange(1, len(keys) + 1), named.values()
    for place in range(len(keys)):
        each.plot(learned, store[place], color="tab:blue", linewidth=0.7, alpha=0.6)
    each.set_title("Each task in the superposed store", loc="left", fontsize=11)
    means.set_title("Mean of the tasks learned so far", loc="left", fontsize=11)
    for name, curves in named.items():
        means.plot(learned, np.nanmean(curves, axis=0), linewidth=2, label=name)
    for axes in (each, means):
        axes.set(xlabel="tasks learned", ylim=(0, 1.02))
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    each.set_ylabel("test accuracy")
    means.legend(frameon=False, fontsize=8, loc="lower left")
    path = output / "forgetting.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
