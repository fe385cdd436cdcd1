"""Commands of the comparisons: `tenants`, `newcomer`, `alphabets`, each resumable, and `page`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.quality import alphabets, setfit, tenants
from benchmarks.quality.page import write_page
from benchmarks.quality.report import REPORTED, TUNING, Found, summary
from experiments.report import machine, write_json

RESULTS = Path("docs/results/quality")
app = typer.Typer(no_args_is_help=True, help=__doc__)
torch.set_num_threads(1)
Tune = Annotated[bool, typer.Option("--tune", help="Try settings on draws 0 to 2 instead.")]


def measured(name: str, runs: dict[str, Callable[[int], Found]], draws: tuple[int, ...] = REPORTED) -> None:
    """Run what has no result yet, and write it after each run."""
    file = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    for title, run in runs.items():
        own = found["runs"].setdefault(title, {})
        for draw in draws:
            if str(draw) not in own:
                own[str(draw)] = run(draw)
                write_json(file, found | {"machine": machine()})
                means = {key: float(np.mean(one)) for key, one in own[str(draw)]["accuracy"].items()}
                typer.echo(f"{title}, draw {draw}: " + ", ".join(f"{key} {one:.2f}" for key, one in means.items()))
        found.setdefault("summary", {})[title] = summary(list(own.values()))
    write_json(file, found | {"machine": machine()})


def tuned(name: str, tried: dict[str, Callable[[int], list[float]]], draws: tuple[int, ...] = TUNING) -> None:
    """Write the mean accuracy of each setting."""
    file = RESULTS / f"tuning-{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for setting, run in tried.items():
        if setting not in found:
            found[setting] = float(np.mean([np.mean(run(draw)) for draw in draws]))
            typer.echo(f"{setting}: {found[setting]:.2f}")
            write_json(file, found)


@app.command("tenants")
def tenants_command(tune: Tune = False, rows: Annotated[str, typer.Option(help="Rows a class.")] = "3,10,30") -> None:
    """100 tenants' intents."""
    for count in map(int, rows.split(",")):
        if not tune:
            measured("tenants", {f"{count} rows an intent": partial(tenants.run, rows=count)})
            continue
        tuned(f"tenants-{count}", tenants.tried(count))


@app.command()
def newcomer() -> None:
    """A new tenant of a body that 99 others have taught."""
    measured("newcomer", {"3 rows an intent": tenants.newcomer})


@app.command("setfit")
def setfit_command() -> None:
    """The encoder fine-tuned for ten of the tenants, beside what `tenants` found for them."""
    of_tenants = json.loads((RESULTS / "tenants.json").read_text())["runs"]["3 rows an intent"]

    def run(draw: int) -> Found:
        return setfit.run(draw, of_tenants[str(draw)]["accuracy"])

    measured("setfit", {"3 rows an intent, 10 tenants": run})


@app.command("alphabets")
def alphabets_command(tune: Tune = False) -> None:
    """Alphabets of Omniglot as tasks."""
    if not tune:
        ways = {"together": alphabets.TOGETHER, "one task after another": alphabets.ONE_BY_ONE}
        measured("alphabets", {way: partial(alphabets.run, settings=settings) for way, settings in ways.items()})
        return
    tuned("alphabets", alphabets.tried())


@app.command()
def page() -> None:
    """Write docs/quality.md and its pictures from the results."""
    write_page(RESULTS)


if __name__ == "__main__":
    app()
