"""The demo's story: teach, stop, start again, ask."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tqdm import tqdm

from demo.baselines import Curves, plain_network, separate_networks
from demo.demo_tasks import DemoTask, demo_tasks
from demo.report import save_curves, show_table
from demo.server_process import Server
from superposed.config import MLPConfig, StoreConfig
from superposed.store.store import WeightStore
from superposed_client import Client, mixture, power
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory


def run_demo(data: str, output: Path, *, keep: bool) -> None:
    """Run the demo.

    Args:
        data: `digits` or `mnist`.
        output: Where the picture, the figures and the example rows go.
        keep: Leave the server running until it is interrupted.
    """
    console = Console()
    started = time.monotonic()
    torch.set_num_threads(1)  # the baselines here, beside the server's own process
    tasks = demo_tasks(data)
    network = MLPConfig(inputs=max(task.data.features for task in tasks))
    config = StoreConfig(network=network)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="superposed-demo-") as folder:
        directory = Path(folder) / "store"
        _initialise(directory, config)
        server = Server(directory)
        with server, server.client() as client:
            console.print(f"\nOne store at [bold]{server.url}[/], {client.store().bytes.weights:,} bytes of weights.")
            console.print(f"Teaching it {len(tasks)} tasks, strictly one after another, over HTTP:\n")
            curves = teach(client, tasks)
        console.print("\nThe server is stopped and started again; all that follows is what it answers now.")
        with Server(directory, server.port) as again, again.client() as client:
            curves[:, -1] = [_score(client, task) for task in tasks]
            weights = client.store().bytes.weights // 4
            console.print("The same rows, the same order: one plain network, and one small network a task ...")
            plain = plain_network(network, config.optimizer, tasks)
            separate = separate_networks(weights, config.optimizer.steps, tasks)
            show_table(console, [task.key for task in tasks], curves, plain, separate)
            _compositions(console, client, tasks)
            _curl(console, again, tasks, output)
            named = {"superposed store": curves, "separate models": separate, "plain network": plain}
            picture = save_curves(output, [task.key for task in tasks], named)
            console.print(f"\nForgetting curves: {picture}   ({time.monotonic() - started:.0f} s in all)")
            if keep:
                again.serve_until_interrupted(console)


def _initialise(directory: Path, config: StoreConfig) -> None:
    with DataDirectory(directory) as opened:
        begin(opened, WeightStore(config))


def teach(client: Client, tasks: list[DemoTask]) -> Curves:
    """Teach the tasks in order and measure all of them after each; every number comes over HTTP."""
    curves = np.full((len(tasks), len(tasks)), np.nan)
    for now, task in enumerate(tasks):
        handle = client.task(task.key, labels=task.data.labels, offset=task.offset.tolist(), scale=task.scale.tolist())
        with tqdm(task.batches(seed=now), desc=f"{task.key:>18}", unit="update", file=sys.stdout) as bar:
            for chosen in bar:
                handle.partial_fit(task.data.train_x[chosen], task.data.named(task.data.train_y[chosen]))
            for before, known in enumerate(tasks[: now + 1]):
                curves[before, now] = _score(client, known)
            bar.set_postfix_str(
                f"test accuracy {curves[now, now]:.3f}, mean of all {curves[: now + 1, now].mean():.3f}"
            )
    return curves


def _score(client: Client, task: DemoTask) -> float:
    return client.task(task.key).score(task.data.test_x, task.data.named(task.data.test_y))


def _compositions(console: Console, client: Client, tasks: list[DemoTask]) -> None:
    """Ask a mixture and a power about the first task's test rows."""
    first, other = tasks[0], tasks[-1]
    console.print(f"\nComposed contexts, asked about {first.key}'s test rows:")
    for weight in (0.9, 0.7):
        mixed = mixture({first.key: weight, other.key: round(1 - weight, 2)})
        score = client.task(mixed).score(first.data.test_x, first.data.named(first.data.test_y))
        console.print(
            f"  mix({first.key}:{weight}, {other.key}:{1 - weight:.1f})   accuracy {score:.3f}", highlight=False
        )
    for exponent in (0.9, 0.5):
        score = client.task(power(first.key, exponent)).score(first.data.test_x, first.data.named(first.data.test_y))
        console.print(f"  {first.key}^{exponent}   accuracy {score:.3f}", highlight=False)


def _curl(console: Console, server: Server, tasks: list[DemoTask], output: Path) -> None:
    """Run three commands that work while the server runs, and print their responses."""
    first, last = tasks[0], tasks[-1]
    row, mixed = output / "row.json", output / "two-tasks.json"
    row.write_text(json.dumps({"context": first.key, "inputs": first.data.test_x[:1].tolist(), "return": ["labels"]}))
    mixed.write_text(
        json.dumps(
            {
                "contexts": [first.key, last.key],
                "inputs": [first.data.test_x[0].tolist(), last.data.test_x[0].tolist()],
                "return": ["labels"],
            }
        )
    )
    json_type = "-H 'Content-Type: application/json'"
    console.print(
        f"\nBy hand (the true labels are {first.data.labels[first.data.test_y[0]]} and "
        f"{last.data.labels[last.data.test_y[0]]}):"
    )
    for command in (
        f"curl -s {server.url}/v1/infer {json_type} --data @{row}",
        f"curl -s {server.url}/v1/infer {json_type} --data @{mixed}",
        f"curl -s {server.url}/v1/capacity",
    ):
        console.print(f"  [bold]{command}[/]", highlight=False, soft_wrap=True)
        if shutil.which("curl"):
            answer = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)  # noqa: S603 - shown before
            console.print(f"    {answer.stdout[:300]}", markup=False, highlight=False, soft_wrap=True)
