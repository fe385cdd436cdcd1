"""The suites of the SDK, of tritonclient and of the console against the ingress of four cells with 1,000 tasks.

    python -m tests.cluster.suites --results docs/results/cluster/suites.json

The tests are those of the suite, unchanged; what fails there is named in the results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ingress import PORT, cluster
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import MLPConfig, OptimizerConfig, WeightStore, seeded_secret
from superposed_client import Client
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

CELLS, TASKS = "abcd", 1000
CONFIG = """
name = "suites"
cells = ["a", "b", "c", "d"]
directory = "{folder}"
port = {port}
first_port = 8260
cpus = 0.5
[patterns]
"digits*" = "a"  # what tests mix stays in one cell
plain = "a"
rot = "a"
[settings]
"""
LIMITS = "max_body_bytes = 200000\nmax_rows = 4096\n"  # as their own servers have
# The paths of each suite, and the inputs and hidden units that its tests expect of a store.
SUITES: dict[str, tuple[list[str], int, int]] = {
    "tritonclient": (["tests/contract/test_protocol_v2.py"], 64, 96),
    "SDK": (["tests/clients/test_client.py", "tests/clients/test_inputs.py", "tests/clients/test_labels.py"], 784, 128),
    "console": (["tests/browser/test_console.py"], 784, 128),
}


def suite(paths: list[str], report: Path) -> dict[str, Any]:
    environment = os.environ | {"TESTED_URL": f"http://127.0.0.1:{PORT}"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *paths]
    subprocess.run(words, env=environment, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [one.get("name") for one in cases if one.find("failure") is not None or one.find("error") is not None]
    skipped = sum(one.find("skipped") is not None for one in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


@contextmanager
def cells(inputs: int, hidden: int, settings: str) -> Iterator[None]:
    """A cluster of four cells whose stores are as the tests' own."""
    network, optimizer = MLPConfig(inputs=inputs, hidden=(hidden, hidden)), OptimizerConfig(learning_rate=1e-3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, cell in enumerate(CELLS):
            (folder / "data" / cell).mkdir(parents=True)
            with DataDirectory(folder / "data" / cell / "0") as directory:
                store = WeightStore(plain_config(network=network, optimizer=optimizer), secret=seeded_secret(place))
                begin(directory, store)
        with cluster(folder, CONFIG + settings):
            yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--suites", nargs="*", default=list(SUITES), help="others keep their results")
    asked = parser.parse_args()
    kept = asked.results is not None and asked.results.exists()
    url, found = f"http://127.0.0.1:{PORT}", json.loads(asked.results.read_text()) if kept else {}
    with tempfile.TemporaryDirectory() as folder:
        for title in asked.suites:
            paths, inputs, hidden = SUITES[title]
            with cells(inputs, hidden, "" if title == "console" else LIMITS), Client(url, timeout_s=60) as client:
                if title != "tritonclient":  # its tests list all tasks, and know which there are
                    register(client, inputs)
                tasks = {cell: Client(url, cell=cell).store().tasks for cell in CELLS}
                found[title] = suite(paths, Path(folder) / "report.xml") | {"tasks before it": tasks}
            print(title, found[title], flush=True)
    if asked.results:
        write_json(asked.results, found | {"machine": machine()})


def register(client: Client, inputs: int) -> None:
    for number in range(TASKS):
        client.register_task(f"zz-{number}", inputs=inputs, outputs=10)


if __name__ == "__main__":
    main()
