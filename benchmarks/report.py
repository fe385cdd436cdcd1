"""Makes docs/benchmarks.md and its pictures from the committed results.

python -m benchmarks.report
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tables import (
    dataframes_table,
    device_table,
    durability_table,
    forward_tables,
    learning_table,
    machine_line,
    memory_table,
    one_row_table,
    overload_tables,
    profile_table,
    separate_table,
    service_tables,
    serving_table,
    split_table,
    texts_table,
)

RESULTS = Path("docs/results/benchmarks")
PAGE = Path("docs/benchmarks.md")


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return values


def render() -> str:
    """The page."""
    overloads, neighbours = overload_tables(read("overload"))
    flood_s = read("overload")["overload"][0]["at_4"]["seconds"]
    telemetry = read("telemetry")
    low, _, high = telemetry["ratio_quartiles"]
    forward, separate, serving = read("forward"), read("separate"), read("serving")
    frames = read("dataframes")
    gap = frames["against pipeline"]
    by_batch, by_tasks = forward_tables(forward)
    inference, updates = service_tables(read("service"))
    durability = read("durability")
    size, pause = durability["updates"]["bytes per update"], durability["inference_during_snapshots"]
    replay = durability["replay"]
    replays = [turn["plain_s"] / turn["start_s"] for turn in replay["turns"]]
    startup = read("startup")
    large = startup["large_snapshot"]
    best = serving.get("best_peer", "none")
    over = serving.get("requests_over_best_peer", {})
    ratios = ", ".join(f"{name} {ratio:.1f}" for name, ratio in over.items() if name.startswith("superposed"))
    bare = ", ".join(f"{name} {ratio:.2f}" for name, ratio in sorted(serving["requests_over_bare_server"].items()))
    texts, split = read("texts"), read("process_split")
    device, served = read("device"), read("service")
    slowest, fastest = (pick(row["plain_over_mixed"] for row in device["rows"]) for pick in (min, max))
    many = {row["rows_a_request"]: row["served_rows_per_s"] for row in served["inference"] if row["form"] == "binary"}
    on_gpu = device["served"]
    alone = ", ".join(f"{rate:,.0f} {name}" for name, rate in texts["encoder alone"].items())
    return f"""# Benchmarks

Every table here is made by `python -m benchmarks.report` from the JSON in `docs/results/benchmarks/`, which
the named commands made. Compare only what stands in one table: it was measured in one run. Machine: two
cores, {machine_line(forward)}.

## What a mixed batch costs

`python -m benchmarks.forward`, {forward["threads"]} thread: a batch of rows of 1,000 tasks, against
one plain `nn.Sequential` of the same layers, activation and normalisation that treats all rows alike. The
figure is plain time / mixed time: 1 means that a thousand tasks cost what one costs. Complex weights are
twice as many numbers and four times the products.

{by_batch}

![Plain time over mixed time, by rows](results/benchmarks/forward.png)

256 rows of `phase` at width 256, by number of tasks:

{by_tasks}

### On a GPU

`python -m benchmarks.device` ([result](results/benchmarks/device.json)) on an {device["machine"]["device"]}, with
PyTorch {device["machine"]["torch"]}, bfloat16 products and 1,000 tasks. Peak and bandwidth are what one large product
and one large copy reached in the same run ({device["rows"][-1]["peak_tflops"]:.0f} TFLOP/s,
{device["rows"][-1]["bandwidth_gb_per_s"] / 1000:.1f} TB/s):

{device_table(device)}

There a mixed batch costs {1 / fastest:.0f} to {1 / slowest:.0f} times a plain network: products are fast, and binding
moves every signal through memory several times. A small batch is launches only, whatever its size. The server answered
{on_gpu["one-row requests/s"]:,.0f} requests/s of one row, {on_gpu["64-row requests/s"]:,.0f} of 64 rows and
{on_gpu["updates/s of 128 rows"]:.0f} updates/s of 128 rows, where two CPU cores
([result](results/benchmarks/service.json)) answered {many[1]:,.0f}, {many[64] / 64:,.0f} and
{served["updates"][0]["updates_per_s"]:.0f}: for networks of this size a GPU gains nothing. Replayed updates made equal
bits on the GPU; 40 updates of 20 tasks ended within {device["learning"]["distance_from_cpu"]:.1%} of the CPU's answers.

## Against separate networks

`python -m benchmarks.separate`, {separate["threads"]} thread, batches of {separate["batch"]} rows of tasks
drawn at random:

{separate_table(separate)}

## Tables as they come

`python -m benchmarks.dataframes`: ten tables of scikit-learn, river, vega_datasets, palmerpenguins and R,
with their holes, texts and dates, taught to one server from data frames, one table after another,
{frames["settings"]["epochs"]} epochs each. Accuracy on a quarter of the rows that was not taught, at the
end, mean of {len(frames["draws"])} draws. The pipeline is fitted to each table by itself (means for
holes, `StandardScaler`, `OneHotEncoder`, `LogisticRegression`; dates made numbers by hand). Store minus
pipeline: {100 * gap["difference"]:+.2f} points, standard error {100 * gap["standard error"]:.2f}. The
expected calibration error is that after one pass, beside that of the same answers at temperature 1.

{dataframes_table(frames)}

## Served

`python -m benchmarks.serving`: requests a second (and their p99) with one row of 784 numbers each,
{serving["tasks"]} tasks in turn, from `wrk` on the same two cores. The peers hold the same networks in a dict
and batch as their documentation advises. Requests a second at 64 connections over the best peer's ({best}):
{ratios}. Over those of a bare uvicorn application that reads the same body, and where it is JSON parses it
by orjson: {bare}.

{serving_table(serving)}

![Requests a second at 64 connections](results/benchmarks/serving.png)

## Texts

`python -m benchmarks.texts`: {texts["tenants"]:,} tenants' classifiers on one encoder (all-MiniLM-L6-v2 in
ONNX Runtime, one thread), one text a request, {texts["connections"]} connections, from `wrk` on the same
two cores. The peers have the same encoder, a logistic regression for each tenant, and for texts that come
again an `lru_cache` of embeddings; here each API key and task has embeddings of its own. The encoder alone,
on a core of its own: {alone}.

{texts_table(texts)}

## What the service costs

`python -m benchmarks.service --seconds 2`: rows a second over HTTP against the bare mixed forward at the
batch sizes that the server formed, and acknowledged updates a second against a plain torch step. Both
servers and clients share the two cores. With one row a request nearly all of the time goes into HTTP and
Python, not into the store. The client here is a Python one: `wrk`, above, leaves the server more of the
machine.

{inference}

Where the time of a one-row request goes, on a server with 64 connections (`python -m benchmarks.profiling`,
samples of what holds Python's lock), before such requests were answered on their connection and now:

{profile_table(read("profiling_before"), read("profiling"))}

API processes in front of one engine process were tried and left (`python -m benchmarks.process_split`,
[decision 46](decisions/0046-direct-inference.md)): one-row JSON requests at {split["connections"]} connections, the
split without keys, quotas, deadlines and metrics:

{split_table(split)}

{updates}

Counting and timing are {telemetry["ratio"] - 1:.0%} of the processor time of a one-row request (median of
{telemetry["pairs"]} pairs, quartiles {low - 1:.0%} and {high - 1:.0%}; `python -m benchmarks.telemetry`).

## What an update costs

`python -m benchmarks.learning`: the library's `apply` of 128 rows of 784 numbers to three layers of 256, one
step, beside a step of the same network in plain torch with fused Adam on as many rows, in turns:

{learning_table(read("learning"))}

Updates of one row over HTTP (`python -m benchmarks.one_row`): 100 tasks in turn, 20 numbers a row, each
update on disk before it is answered, those that wait together in one commit; beside river's logistic
regression behind Flask (each model put back into a shelf), Vowpal Wabbit behind FastAPI (nothing written), and
scikit-learn's `partial_fit` behind FastAPI (each row committed to SQLite). Updates a second, p50 and p99:

{one_row_table(read("one_row"))}

## Starts and memory

`python -m benchmarks.startup`: `superposed --help` {startup["help_s"]:.2f} s; `serve` in an empty directory is
ready after {startup["ready_empty_s"]:.1f} s, of which `import torch` takes {startup["import_torch_s"]:.1f} s; on a
snapshot of {large["bytes"] / 1e9:.2f} GB in the system's cache after {large["start_s"]:.1f} s, where reading and
hashing the file take {large["read_and_hash_s"]:.1f} s.

{memory_table(startup)}

## Overload, and a neighbour that floods

`python -m benchmarks.overload`: server and load pinned to a core each; four times what a closed loop gets,
for {flood_s / 60:.0f} minutes from 512 connections, with `queue_delay_ms` at 100. Times are from sending to
the answer, of what was answered 200.

{overloads}

Refusals are held back, so the connections carry little more than the peak, of the four times that wait to be
sent.

One tenant sends 20 one-row requests a second; another sends its share, then four times the server's peak from
256 connections:

{neighbours}

The last row was measured before attributions of the poison detector left room for inference.

## What durability costs

`python -m benchmarks.durability`: acknowledged updates of 32 rows of 784 pixels.

{durability_table(durability)}

- journal: {size["disk"]:,.0f} bytes an update, of {size["pixels"]:,} pixels ({size["http"]:,} bytes of JSON)
- p99 of inference while snapshots are taken one after another, over that without: {pause["ratio"]:.2f}
  ({pause["p99_ms_during"]:.1f} ms and {pause["p99_ms"]:.1f} ms)
- a start that replays {replay["records"]:,} records of {replay["rows"]} rows: {replay["speed_ratio"]:.2f} of the
  speed of as many plain torch steps (median of {", ".join(f"{ratio:.2f}" for ratio in replays)})
"""


def pictures() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in read("forward")["rows"] if row["tasks"] == 1000]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for family, width in dict.fromkeys((row["family"], row["width"]) for row in rows):
        mine = [row for row in rows if (row["family"], row["width"]) == (family, width)]
        x, y = [row["rows"] for row in mine], [row["ratio"] for row in mine]
        axes.plot(x, y, marker="o", label=f"{family}, {width}")
        axes.fill_between(x, [row["low"] for row in mine], [row["high"] for row in mine], alpha=0.2)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xscale="log", xlabel="rows, each of another task", ylabel="plain time / mixed time", ylim=(0, 1.3))
    axes.legend(fontsize=8)
    figure.savefig(RESULTS / "forward.png", dpi=120)
    servers = [one for one in read("serving")["servers"] if "error" not in one]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    speeds = [one["64 connections"]["requests_per_s"] for one in servers]
    bars = axes.barh([one["name"] for one in servers], speeds)
    axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=3, fontsize=8)
    axes.set(xlabel="requests a second at 64 connections", xlim=(0, 1.15 * max(speeds)))
    axes.invert_yaxis()
    figure.savefig(RESULTS / "serving.png", dpi=120)


def main() -> None:
    PAGE.write_text(render())
    pictures()


if __name__ == "__main__":
    main()
