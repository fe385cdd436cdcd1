"""docs/scale.md: what many machines give and cost, from what the commands of `make cluster` wrote.

python -m benchmarks.scale_page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tables import table

STEPS = (
    *("drain of a node", "back after the drain", "rolling restart"),
    *("without the head node", "all nodes lost, and started again"),
)
# Why a test of the suites fails against a cluster.
WHY = {
    "test_repository[given-aio]": "tritonclient's asyncio client left a connection open, which is a warning",
    "test_the_rest_of_the_api[given]": "it mixes two tasks, which are in different cells here: refused",
    "test_what_the_store_is_and_what_it_learns": "it counts four tasks, and there are a thousand more",
    "test_overlap_crosstalk_and_forgetting": "it expects its four tasks to be all that the page begins with",
    "test_numbers_from_a_form_and_pasted": "it chooses from a list, which is a field to type in where tasks are many",
}
PAGE, RESULTS = Path("docs/scale.md"), Path("docs/results")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def ingress_table(kinds: dict[str, Any]) -> str:
    rows = []
    for kind, ways in kinds.items():
        rates = [ways[way]["requests_per_s"] for way in ("direct", "through the ingress")]
        both = ways["through the ingress, both cells"]["requests_per_s"]
        name = kind.replace(", 1 connections", ", 1 connection")
        rows.append([name, *(f"{one:,.0f}" for one in (*rates, both)), f"{ways['ratio']:.2f}"])
    return table(["requests", "to the server", "through the ingress", "to tasks of both cells", "ratio"], rows)


def failures(found: dict[str, Any]) -> str:
    without, reads = found["without_writes_s"], found["reads_of_other_cells_stop_s"]
    back = found["back_after_s"]
    measured = {
        "without writes, cell that lost its leader": without,
        "between two reads, cells that lost none": reads,
        "until the node and its servers were back": back,
    }
    rows = [[name, *(f"{one[which]:.1f}" for which in ("median", "p99", "most"))] for name, one in measured.items()]
    return f"""\
`python -m tests.cluster.nodes` ([result](results/durability/cluster.json)): {found["nodes"]} nodes in network
namespaces of one machine, {found["cells"]} cells of three servers. {found["rounds"]} times a node was killed under
load, with {found["leaders_killed"]} leaders. Of {found["acknowledged"]:,} acknowledged updates {found["lost"]} were
lost and {found["twice"]} applied twice; the stores of each cell were
{"equal" if found["digests_equal"] else "not equal"} at the end.

{table(["seconds", "median", "99th percentile", "most"], rows)}"""


def upkeep(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{one['took_s']:.0f}", f"{one['longest_without_writes_s']:.1f}", f"{one['writes']:,}"]
        for name, one in ((name, found[name]) for name in STEPS)
    ]
    return f"""\
`python -m tests.cluster.upkeep` ([result](results/durability/upkeep.json)): the same cluster under load. Of
{found["acknowledged"]:,} acknowledged updates {found["lost"]} were lost and {found["twice"]} applied twice; the stores
of each cell were {"equal" if found["digests_equal"] else "not equal"} at the end.

{table(["step", "seconds", "longest time without writes of a cell, seconds", "updates meanwhile"], rows)}"""


def moves(found: dict[str, Any]) -> str:
    return f"""\
`python -m tests.cluster.moves` ([result](results/cluster/moves.json)): {found["moves"]} tasks were moved from one cell
to another, while clients went on to teach all of them. Of {found["updates"]:,} acknowledged updates {found["lost"]}
were lost and {found["twice"]} learned twice. The tasks answered {found["accuracy just before, mean"]:.1%} of held-out
rows right just before their move, and {found["accuracy just after, mean"]:.1%} just after it; the one that lost most
lost {100 * found["accuracy, largest loss"]:.1f} points. At least {found["agreement, least"]:.1%} of a task's answers
were those of before. A move took {found["seconds a move, median"]:.1f} s (median)."""


def suites(found: dict[str, Any]) -> str:
    names = [name for name in found if isinstance(found[name], dict) and "passed" in found[name]]
    rows = [
        [name, sum(one["tasks before it"].values()), one["passed"], len(one["failed"]), one["skipped"]]
        for name, one in ((name, found[name]) for name in names)
    ]
    failed = sorted({one for name in names for one in found[name]["failed"]})
    told = "".join(f"\n- `{one}`: {WHY.get(one, 'not looked into')}." for one in failed)
    found_table = table(
        ["suite", "tasks before it", "passed", "failed", "skipped"],
        [[f"{one:,}" if isinstance(one, int) else one for one in row] for row in rows],
    )
    return found_table + (f"\n\nWhat failed:\n{told}" if failed else "")


def simulation(found: dict[str, Any]) -> str:
    clusters, measured = found["clusters"], found["measured"]
    names = [name for name in clusters[0] if name != "nodes"]

    def shown(name: str, value: float) -> str:
        return f"{value:.4%}" if name.startswith("share") else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"

    rows = [[name, *(shown(name, one[name]) for one in clusters)] for name in names]
    largest = clusters[-1]
    return f"""\
`python -m benchmarks.cluster_scale` ([result](results/benchmarks/cluster_scale.json)) simulates a year of clusters with
a million tasks of 100,000 tenants. It is computed from service times that were measured on two cores: a server answers
{measured["rows_per_s"]:,.0f} one-row requests/s and takes {measured["updates_per_s"]:,.0f} updates/s; a process of the
ingress passes on {measured["ingress_per_s"]:,.0f} requests/s; the coordinator looks at a server in
{measured["look_ms"]:.1f} ms. Each node fails once in 30 days.

{table(["nodes", *(f"{one['nodes']:,}" for one in clusters)], rows)}

Where it breaks:

- **The largest tenant.** Where requests follow a Zipf law, its cell is full long before others:
  {largest["inference/s, Zipf"]:,.0f} inference requests/s with {largest["nodes"]:,} nodes, of
  {largest["inference/s, uniform"]:,.0f} if all cells were asked alike. Patterns give large tenants their own cells.
- **The coordinator.** It looks at every server four times a second. With {largest["nodes"]:,} nodes one look
  takes {largest["seconds of a look of the coordinator"]:.1f} s of one core: failures are noticed that much later.
- **The ingress.** Small requests need {largest["ingress processes for uniform inference"]:,.0f} processes of it;
  clients that know their cell ask its servers directly.
- **Unknown tasks.** A request for a task that is in no cell asks all of them."""


def render() -> str:
    """The page."""
    return f"""\
# What many machines give, and what they cost

Every figure here is computed by `python -m benchmarks.scale_page` from the JSON that the named commands wrote
(`make cluster`). How to run many machines is in [scale out](cluster.md).

## What the ingress costs

`python -m benchmarks.ingress` ([result](results/benchmarks/ingress.json)): requests a second to one server itself and
through the ingress, in one run, with clients, ingress and servers on the same two cores.

{ingress_table(read("benchmarks/ingress")["kinds"])}

## What a lost node costs

{failures(read("durability/cluster"))}

## What upkeep costs

{upkeep(read("durability/upkeep"))}

## What a move costs

{moves(read("cluster/moves"))}

## What clients notice

`python -m tests.cluster.suites` ([result](results/cluster/suites.json)): the tests of the SDK, of tritonclient and of
the console, unchanged, against the ingress of four cells. Tritonclient's list all tasks, and know which there are.

{suites(read("cluster/suites"))}

## 10 to 1,000 nodes

{simulation(read("benchmarks/cluster_scale"))}
"""


if __name__ == "__main__":
    PAGE.write_text(render())
