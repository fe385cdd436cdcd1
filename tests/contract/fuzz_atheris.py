"""Coverage-guided bytes at the readers of bodies: JSON, binary tensors, the protocol's binary extension.

    pip install atheris
    python -m tests.contract.fuzz_atheris --seconds 3600 --results docs/results/security/atheris.json

Anything but the service's own errors is a crash; libFuzzer then stops and writes the bytes that did it. It
leaves by itself when the time is over, so that what it did is read from its own last line.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.report import machine, write_json

KINDS = ("application/json", "application/vnd.superposed.tensors")
WIDTH = 64


def seeds(folder: Path) -> None:
    """Good bodies to begin with."""
    tensor = {"datatype": "FP32", "shape": [1, WIDTH]}
    named = {"name": "input", **tensor, "parameters": {"binary_data_size": 4 * WIDTH}}
    heads = [
        {"context": "digits", "inputs": tensor},
        {"contexts": ["a"], "inputs": tensor, "targets": {"datatype": "INT64", "shape": [1]}, "steps": 2},
        {"id": "1", "inputs": [named], "outputs": [{"name": "labels"}]},
        {"inputs": [{"name": "context", "datatype": "BYTES", "shape": [1], "data": ["a"]}, named]},
    ]
    for number, head in enumerate(heads):
        text = json.dumps(head).encode()
        body = text + bytes(4 * WIDTH + 8)
        (folder / f"binary-{number}").write_bytes(b"\1" + len(text).to_bytes(2, "little") + body)
    for number, value in enumerate(({"context": "digits", "inputs": [[0.5] * WIDTH]}, {"context": {"task": "a"}})):
        (folder / f"json-{number}").write_bytes(b"\2\0\0" + json.dumps(value).encode())


def fuzz(arguments: list[str]) -> None:
    """In an input the first byte says which form, the next two how long the head is, the rest is the body."""
    import atheris

    with atheris.instrument_imports(include=["superposed_service"]):
        from tests.contract.fuzz import read_anything

    def one_input(data: bytes) -> None:
        if len(data) >= 3:
            how, length = data[0], int.from_bytes(data[1:3], "little")
            read_anything(data[3:], KINDS[how % 2], None if how & 2 else str(length))

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        seeds(corpus)
        options = [str(corpus), f"-max_total_time={asked.seconds}", "-max_len=4096", "-print_final_stats=1"]
        options.append(f"-artifact_prefix={folder}/")
        command = [sys.executable, "-m", "tests.contract.fuzz_atheris", "worker", *options]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)", run.stderr, re.MULTILINE))
        crashes = [path.read_bytes().hex() for path in Path(folder).glob("crash-*")]
        kept = len(list(corpus.iterdir()))
    values = {
        "machine": machine(),
        "seconds": asked.seconds,
        "inputs": int(stats.get("number_of_executed_units", 0)),
        "corpus": kept,
        "exit_code": run.returncode,
        "crashes": crashes,
    }
    print(json.dumps(values))
    if crashes or run.returncode:
        print(run.stderr[-4000:])
    if asked.results is not None:
        write_json(asked.results, values)
    raise SystemExit(run.returncode)


if __name__ == "__main__":
    fuzz(sys.argv[2:]) if sys.argv[1:2] == ["worker"] else main()
