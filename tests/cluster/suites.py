"""The suites of the SDK, of tritonclient and of the console against the ingress of four cells with 1,000 tasks.

    python -m tests.cluster.suites --results docs/results/cluster/suites.json

The tests are those of the suite, unchanged; what fails there is named in the results.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
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
max_body_bytes = 200000
max_rows = 4096
"""
SUITES = {
    "tritonclient": ["tests/contract/test_protocol_v2.py"],
    "SDK": ["tests/clients/test_client.py", "tests/clients/test_inputs.py", "tests/clients/test_labels.py"],
    "console": ["tests/browser/test_console.py"],
}


def suite(paths: list[str], report: Path) -> dict[str, Any]:
    environment = os.environ | {"SUPERPOSED_TESTED_URL": f"http://127.0.0.1:{PORT}"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *paths]
    subprocess.run(words, env=environment, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [one.get("name") for one in cases if one.find("failure") is not None or one.find("error") is not None]
    skipped = sum(one.find("skipped") is not None for one in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    network, optimizer = MLPConfig(inputs=784, hidden=(128, 128)), OptimizerConfig(learning_rate=1e-3)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, cell in enumerate(CELLS):
            (folder / "data" / cell).mkdir(parents=True)
            with DataDirectory(folder / "data" / cell / "0") as directory:
                store = WeightStore(plain_config(network=network, optimizer=optimizer), secret=seeded_secret(place))
                begin(directory, store)
        with cluster(folder, CONFIG):
            for title, paths in SUITES.items():
                found[title] = suite(paths, folder / "report.xml")
                print(title, found[title], flush=True)
                if title == "tritonclient":  # it lists all tasks; the others come after a thousand more
                    with Client(f"http://127.0.0.1:{PORT}") as client:
                        for number in range(TASKS):
                            client.register_task(f"zz-{number}", inputs=784, outputs=10)
                        found["tasks"] = client.store().tasks
                        found["tasks of each cell"] = {
                            cell: Client(f"http://127.0.0.1:{PORT}", cell=cell).store().tasks for cell in CELLS
                        }
    if asked.results:
        write_json(asked.results, {"machine": machine(), **found})


if __name__ == "__main__":
    main()
