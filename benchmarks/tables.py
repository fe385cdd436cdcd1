"""The tables of docs/benchmarks.md, from what the benchmarks wrote."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_line(values: dict[str, Any]) -> str:
    of = values["machine"]
    return f"{of['processor']}, {of['device']}, torch {of['torch']}, Python {of['python']}"


def dataframes_table(values: dict[str, Any]) -> str:
    head = ["table", "superposed store", "scikit-learn pipeline", "temperature", "calibration error", "at 1"]
    lines = []
    for name, found in [*values["tables"].items(), ("mean", values["mean"])]:
        of = [found[f"after one pass: {what}"] for what in
              ("temperature", "calibration error", "calibration error, temperature 1")]  # fmt: skip
        lines.append([name, f"{found['accuracy']:.1%}", f"{found['pipeline']:.1%}", f"{of[0]:.2f}",
                      f"{of[1]:.3f}", f"{of[2]:.3f}"])  # fmt: skip
    return table(head, lines)


def forward_tables(values: dict[str, Any]) -> tuple[str, str]:
    rows = values["rows"]
    batches = sorted({row["rows"] for row in rows})
    lines = []
    for family, width in dict.fromkeys((row["family"], row["width"]) for row in rows):
        cells = {
            row["rows"]: f"{row['ratio']:.2f}"
            for row in rows
            if (row["family"], row["width"], row["tasks"]) == (family, width, 1000)
        }
        lines.append([f"{family}, {width}", *(cells.get(batch, "") for batch in batches)])
    by_batch = table(["family, width", *(f"{batch} rows" for batch in batches)], lines)
    flat = sorted(
        (row["tasks"], row["mixed_ms"], row["ratio"])
        for row in rows
        if (row["family"], row["width"], row["rows"]) == ("phase", 256, 256)
    )
    by_tasks = table(
        ["tasks", *(f"{tasks:,}" for tasks, _, _ in flat)],
        [
            ["ms a batch", *(f"{milliseconds:.2f}" for _, milliseconds, _ in flat)],
            ["plain / mixed", *(f"{ratio:.2f}" for _, _, ratio in flat)],
        ],
    )
    return by_batch, by_tasks


def separate_table(values: dict[str, Any]) -> str:
    lines = []
    for row in values["rows"]:
        speed, size, contexts = row["rows_per_s"], row["weight_bytes"], row["context_bytes"]
        lines.append(
            [
                f"{row['tasks']:,}",
                f"{speed['mixed']:,.0f}",
                f"{speed['loop']:,.0f} ({row['mixed_over_loop']:.1f} x)",
                f"{speed['stacked']:,.0f} ({row['mixed_over_stacked']:.0f} x)",
                f"{size['store'] / 2**20:.1f} MiB",
                f"{size['separate'] / 2**20:,.1f} MiB",
                f"{contexts['each'] * row['distinct_in_batch'] / 2**20:.2f} MiB",
            ]
        )
    head = ["tasks", "store, rows/s", "dict of networks", "stacked (vmap)", "store's weights", "their weights"]
    return table([*head, "contexts in the batch"], lines)


def device_table(values: dict[str, Any]) -> str:
    shown = {("phase", 1024, 256), ("phase", 1024, 8192), ("phase", 4096, 8192)}
    shown |= {("binary", 1024, 256), ("binary", 4096, 8192)}
    lines = [
        [
            f"{row['family']}, {row['width']}",
            f"{row['rows']:,}",
            f"{row['ms']['mixed']:.2f}",
            f"{row['ms']['plain']:.2f}",
            f"{row['plain_over_mixed']:.2f}",
            f"{row['mixed_of_peak']:.1%}",
            f"{row['bind_of_bandwidth']:.1%}",
        ]
        for row in values["rows"]
        if (row["family"], row["width"], row["rows"]) in shown
    ]
    head = ["family, units of a layer", "rows", "ms a mixed batch", "ms, plain network", "plain / mixed"]
    return table([*head, "of the peak", "binding, of the bandwidth"], lines)


def texts_table(values: dict[str, Any]) -> str:
    rows = []
    for name in ("known texts", "new texts"):
        ratio = values[name].get("requests over the best peer")
        for one in values[name]["servers"]:
            over = f"{ratio:.2f}" if ratio is not None and one["name"] == "superposed" else ""
            shown = (
                [one["error"][:60], "", ""]
                if "error" in one
                else [f"{one['requests_per_s']:,.0f}", f"{one['p50_ms']:.0f}", f"{one['p99_ms']:.0f}"]
            )
            rows.append([name, one["name"], *shown, over])
    return table(["texts", "server", "requests/s", "p50 ms", "p99 ms", "over the best peer"], rows)


def serving_table(values: dict[str, Any]) -> str:
    lines = []
    for server in values["servers"]:
        if "error" in server:
            lines.append([server["name"], f"did not run: {server['error'].splitlines()[-1][:80]}", "", ""])
            continue
        cells = [server[f"{count} connections"] for count in (1, 8, 64)]
        lines.append([server["name"], *(f"{one['requests_per_s']:,.0f} ({one['p99_ms']:.1f} ms)" for one in cells)])
    return table(["server", "1 connection", "8 connections", "64 connections"], lines)


def service_tables(values: dict[str, Any]) -> tuple[str, str]:
    inference = table(
        ["connections", "rows a request", "form", "rows a batch", "served rows/s", "bare rows/s", "ratio"],
        [
            [
                str(row["connections"]),
                str(row["rows_a_request"]),
                row["form"],
                str(row["mean_batch_rows"]),
                f"{row['served_rows_per_s']:,.0f}",
                f"{row['bare_rows_per_s']:,.0f}",
                f"{row['ratio']:.2f}",
            ]
            for row in values["inference"]
        ],
    )
    updates = table(
        ["rows", "form", "durable", "updates/s", "plain steps/s", "ratio"],
        [
            [
                str(row["rows"]),
                row["form"],
                "yes" if row["durable"] else "no",
                f"{row['updates_per_s']:.0f}",
                f"{row['plain_steps_per_s']:.0f}",
                f"{row['ratio']:.2f}",
            ]
            for row in values["updates"]
        ],
    )
    return inference, updates


def profile_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Microseconds of a request, before and after requests were answered on their connection."""
    lines = [
        [
            name,
            *(
                f"{1e6 * share / of['requests_per_s']:.0f}"
                for of, share in ((before, before["shares"].get(name, 0)), (after, share))
            ),
        ]
        for name, share in sorted(after["shares"].items(), key=lambda one: -one[1])
    ]
    lines.append(["together", *(f"{1e6 / of['requests_per_s']:.0f}" for of in (before, after))])
    return table(["", "before, µs", "now, µs"], lines)


def learning_table(values: dict[str, Any]) -> str:
    lines = [
        [
            row["store"],
            f"{row['tasks']:,}",
            str(row["threads"]),
            str(row["rows in all"]),
            f"{row['plain_ms']:.2f}",
            f"{row['update_ms']:.2f}",
            f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
        ]
        for row in values["rows"]
    ]
    head = ["store", "tasks", "threads", "rows learned", "plain step, ms", "update, ms", "plain / update"]
    return table(head, lines)


def one_row_table(values: dict[str, Any]) -> str:
    lines = []
    for server in values["servers"]:
        cells = [server[f"{count} connections"] for count in (1, 8, 64)]
        over = values["updates_over"].get(server["name"], {})
        shown = [f"{one['requests_per_s']:,.0f} ({one['p50_ms']:.1f}, {one['p99_ms']:.1f} ms)" for one in cells]
        ratios = ", ".join(f"{over[f'{count} connections']:.2f}" for count in (1, 8, 64)) if over else ""
        lines.append([server["name"], *shown, ratios])
    head = ["server", "1 connection", "8 connections", "64 connections", "superposed over it"]
    return table(head, lines)


def memory_table(values: dict[str, Any]) -> str:
    lines = [
        [
            f"{row['tasks']:,}",
            f"{row['rows taught a task']} rows each" if row["rows taught a task"] else "registered only",
            f"{row['kept_bytes'] / 2**20:,.0f} MiB",
            f"{row['resident_bytes_at_start'] / 2**20:,.0f} MiB",
            f"{row['resident_bytes'] / 2**20:,.0f} MiB",
            f"{row['ready_s']:.1f} s",
        ]
        for row in values["memory"]
    ]
    head = ["tasks", "taught", "kept rows", "in memory at the start", "once 1,000 were asked", "ready after"]
    return table(head, lines)


def split_table(values: dict[str, Any]) -> str:
    lines = [
        [name, f"{one['requests_per_s']:,.0f}", f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}"]
        for name, one in values["servers"].items()
    ]
    return table(["", "requests/s", "p50 ms", "p99 ms"], lines)


def durability_table(values: dict[str, Any]) -> str:
    updates = values["updates"]
    lines = [
        [
            name,
            f"{updates[name]['durable']['per_s']:.0f}",
            f"{updates[name]['without']['per_s']:.0f}",
            f"{updates[name]['ratio_per_s']:.2f}",
        ]
        for name in ("1 clients", "8 clients", "64 clients")
    ]
    return table(["", "updates/s, durable", "updates/s, nothing written", "ratio"], lines)


def overload_tables(values: dict[str, Any]) -> tuple[str, str]:
    overloads = table(
        ["", "peak/s, before and after", "answered/s at 4 x", "of the mean peak", "p99 at 0.9 x", "p99 at 4 x"],
        [
            [
                f"{row['kind']}, {row['rows_a_request']} rows",
                f"{row['peak']['requests_per_s']:.0f}, {row['peak_after']['requests_per_s']:.0f}",
                f"{row['at_4']['requests_per_s']:.0f} of {row['sent_per_s']:.0f} sent",
                f"{row['goodput_of_mean_peak']:.2f}",
                f"{row['at_0.9']['p99_from_sending_ms']:.0f} ms",
                f"{row['at_4']['p99_from_sending_ms']:.0f} ms ({row['p99_ratio_from_sending']:.2f} x)",
            ]
            for row in values["overload"]
        ],
    )
    neighbours = table(
        ["the other's requests", "its quota", "p50, p99 beside its share", "beside its flood", "p99 ratio"],
        [
            [
                row["kind"],
                "half of peak" if row["quota"] else "none",
                *(f"{row[at]['own']['p50_ms']:.0f}, {row[at]['own']['p99_ms']:.0f} ms" for at in ("share", "flood")),
                f"{row['p99_ratio']:.2f}",
            ]
            for row in values["neighbours"]
        ],
    )
    return overloads, neighbours
