"""Report of a load: for people, and for programs."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from superposed_service.cli.bench.load_generator import Load, Outcome

__all__ = ["as_json", "show"]

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_BARS = 40


def as_json(load: Load, outcome: Outcome) -> dict[str, Any]:
    """Return everything, as JSON values."""
    return {
        "kind": load.kind,
        "keys": load.keys,
        "tasks": len(load.tasks),
        "rows_a_request": load.rows,
        "form": "binary" if load.binary else "json",
        "connections": load.connections,
        "rate": load.rate,
        "seconds": outcome.seconds,
        "requests_per_s": outcome.requests_per_s,
        "rows_per_s": outcome.requests_per_s * load.rows,
        "latency_ms": {f"p{percent:g}": outcome.percentile(percent) for percent in _PERCENTILES},
        "unsent": outcome.unsent,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "histogram": _histogram(outcome),
    }


def _histogram(outcome: Outcome) -> list[dict[str, float]]:
    """Return counts of latencies, in steps of a fifth of a decade."""
    if not outcome.latencies_ms:
        return []
    steps = np.floor(5 * np.log10(np.maximum(outcome.latencies_ms, 1e-3))).astype(int)
    places, counts = np.unique(steps, return_counts=True)
    return [
        {"up_to_ms": float(10 ** ((place + 1) / 5)), "count": int(count)}
        for place, count in zip(places.tolist(), counts.tolist(), strict=True)
    ]


def show(load: Load, outcome: Outcome, console: Console) -> None:
    """Print a table, and a histogram of latencies."""
    values = as_json(load, outcome)
    table = Table(title=f"{load.kind}, {values['form']}, {load.connections} connections, {load.keys} keys")
    for name in ("requests/s", "rows/s", *(f"p{percent:g} ms" for percent in _PERCENTILES), "answers"):
        table.add_column(name, justify="right")
    answers = ", ".join(f"{count} x {status}" for status, count in values["statuses"].items())
    answers += f", {outcome.unsent} never sent" if outcome.unsent else ""
    latencies = [f"{milliseconds:.2f}" for milliseconds in values["latency_ms"].values()]
    table.add_row(f"{values['requests_per_s']:,.0f}", f"{values['rows_per_s']:,.0f}", *latencies, answers)
    console.print(table)
    most = max((bar["count"] for bar in values["histogram"]), default=1)
    for bar in values["histogram"]:
        length = round(_BARS * bar["count"] / most)
        console.print(f"{bar['up_to_ms']:>10.2f} ms {'█' * length} {bar['count']:.0f}", highlight=False)
