"""Served end to end: this service beside other model servers, the same network, 100 tasks, mixed keys.

    benchmarks/peers/setup.sh
    python -m benchmarks.serving --results docs/results/benchmarks/serving.json

Every server runs alone, one after another in one run, and is driven by `wrk` (Debian's package) with 1, 8 and
64 connections; requests carry one row of 784 numbers for a task that changes with each request. A server is
only timed once its answers were compared with its networks'. A peer that cannot be run is reported with its
error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.peers.networks import networks
from demo.server_process import free_port
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import TaskSchema, WeightStore, learn, seeded_secret
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

TASKS, INPUTS = 100, 784
HEAD_LENGTH = "Inference-Header-Content-Length"
HERE = Path(__file__).parent / "peers"
PEERS = Path(os.environ.get("PEERS_DIR", Path.home() / ".cache/superposed/peers"))
ROWS = np.round(np.random.default_rng(0).random((TASKS, INPUTS)), 4)


@dataclass(frozen=True)
class Server:
    """A server to start and to ask.

    Args:
        name: What it is called in the results.
        start: Gives the command and the directory, from a port and an empty folder.
        path: Where requests go.
        body: One request for a task's row: bytes and headers.
        label: The answered class.
        expected: What each task's row should be answered with; None for this service (see `ours`).
    """

    name: str
    start: Callable[[int, Path], tuple[list[str], Path]]
    path: str
    body: Callable[[int], tuple[bytes, dict[str, str]]]
    label: Callable[[httpx.Response], int] = lambda _: 0
    expected: Callable[[], list[int]] = list


def json_body(body: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(body, separators=(",", ":")).encode(), {"Content-Type": "application/json"}


def _peer_expected() -> list[int]:
    known = networks()
    rows = torch.as_tensor(ROWS, dtype=torch.float32)
    with torch.inference_mode():
        return [int(known[f"t{k}"](rows[k : k + 1]).argmax()) for k in range(TASKS)]


def new_store() -> WeightStore:
    store = WeightStore(plain_config(), secret=seeded_secret(0))
    for number in range(TASKS):
        store.register(TaskSchema(key=f"t{number}", inputs=INPUTS, outputs=10))
        learn(store, f"t{number}", ROWS[number : number + 1], [number % 10])  # an untaught task answers 0
    return store


def _own_expected() -> list[int]:
    store = new_store()
    return [int(store.logits(store.batch(f"t{k}", ROWS[k : k + 1])).argmax()) for k in range(TASKS)]


def _own_start(port: int, folder: Path) -> tuple[list[str], Path]:
    with DataDirectory(folder / "store") as directory:
        begin(directory, new_store())
    return [".venv/bin/superposed", "serve", str(folder / "store"), "--port", str(port)], Path.cwd()


def _bare(how: str) -> Callable[[int, Path], tuple[list[str], Path]]:
    return lambda *_: ([sys.executable, str(HERE / "bare_uvicorn.py"), how], HERE)


def _binary(k: int) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(
        {"context": f"t{k}", "inputs": {"datatype": "FP32", "shape": [1, INPUTS]}, "return": ["labels"]}
    ).encode()
    headers = {"Content-Type": "application/vnd.superposed.tensors", HEAD_LENGTH: str(len(head))}
    return head + ROWS[k].astype("<f4").tobytes(), headers


def python_server(peer: str, script: str) -> Callable[[int, Path], tuple[list[str], Path]]:
    return lambda *_: ([str(PEERS / peer / "bin/python"), str(HERE / script)], HERE)


def _bentoml(port: int, _: Path) -> tuple[list[str], Path]:
    command = [str(PEERS / "bentoml/bin/bentoml"), "serve", "bentoml_server:Networks", "--port", str(port)]
    return command, HERE


def _mlserver(port: int, folder: Path) -> tuple[list[str], Path]:
    for name in ("mlserver_runtime.py", "networks.py"):
        shutil.copy(HERE / name, folder)
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({"parallel_workers": 0, "debug": False} | ports))
    model = {"name": "k", "implementation": "mlserver_runtime.Networks", "max_batch_size": 64, "max_batch_time": 0.005}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(PEERS / "mlserver/bin/mlserver"), "start", "."], folder


def _v2(k: int) -> tuple[bytes, dict[str, str]]:
    rows = {"name": "rows", "shape": [1, INPUTS], "datatype": "FP32", "data": ROWS[k].tolist()}
    return json_body({"inputs": [rows, {"name": "task", "shape": [1, 1], "datatype": "INT64", "data": [k]}]})


def _simple(k: int) -> tuple[bytes, dict[str, str]]:
    return json_body({"task": f"t{k}", "row": ROWS[k].tolist()})


SERVERS = [
    Server(
        "superposed, JSON", _own_start, "/v1/infer",
        lambda k: json_body({"context": f"t{k}", "inputs": [ROWS[k].tolist()], "return": ["labels"]}),
        lambda answer: answer.json()["labels"][0], _own_expected,
    ),
    Server(
        "superposed, binary", _own_start, "/v1/infer", _binary,
        lambda answer: answer.json()["labels"][0], _own_expected,
    ),
    Server(
        "bare uvicorn, JSON parsed", _bare("parse"), "/v1/infer",
        lambda k: json_body({"context": f"t{k}", "inputs": [ROWS[k].tolist()], "return": ["labels"]}),
        lambda answer: answer.json()["labels"][0], lambda: [0] * TASKS,
    ),
    Server(
        "bare uvicorn, binary read", _bare("read"), "/v1/infer", _binary,
        lambda answer: answer.json()["labels"][0], lambda: [0] * TASKS,
    ),
    Server("LitServe", python_server("litserve", "litserve_server.py"), "/predict", _simple,
           lambda answer: answer.json()["label"], _peer_expected),
    Server("Ray Serve", python_server("ray", "ray_server.py"), "/predict", _simple,
           lambda answer: answer.json()["label"], _peer_expected),
    Server("BentoML", _bentoml, "/predict",
           lambda k: json_body({"rows": [[k, *ROWS[k].tolist()]]}),
           lambda answer: answer.json()[0], _peer_expected),
    Server("MLServer", _mlserver, "/v2/models/k/infer", _v2,
           lambda answer: answer.json()["outputs"][0]["data"][0], _peer_expected),
    Server("FastAPI, no batching", python_server("fastapi", "fastapi_server.py"), "/predict", _simple,
           lambda answer: answer.json()["label"], _peer_expected),
]  # fmt: skip


@contextmanager
def started(server: Server, folder: Path) -> Iterator[str]:
    """The server's URL, once it answers."""
    port = free_port()
    command, where = server.start(port, folder)
    environment = {
        **os.environ, "PORT": str(port), "SUPERPOSED_THREADS": "1", "BENCHMARK_TASKS": str(TASKS),
        "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=where, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}{server.path}"
    try:
        content, headers = server.body(0)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.post(url, content=content, headers=headers, timeout=10).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        else:
            raise RuntimeError((folder / "log").read_text()[-1500:] or "it did not answer within 90 s")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check(server: Server, url: str) -> None:
    for k, label in enumerate(server.expected()):
        content, headers = server.body(k)
        answer = httpx.post(url, content=content, headers=headers, timeout=30)
        if answer.status_code != 200 or server.label(answer) != label:
            raise RuntimeError(f"task t{k}: expected {label}, answered {answer.text[:300]}")


def script_of(server: Server, folder: Path) -> Path:
    """A wrk script that sends each task's request in turn."""
    lines = ["local bodies, lengths = {}, {}", 'wrk.method = "POST"', "local n = 0"]
    for k in range(TASKS):
        content, headers = server.body(k)
        lines.append(f'bodies[{k}] = "' + "".join(f"\\{byte:03d}" for byte in content) + '"')
        lines.append(f'lengths[{k}] = "{headers.get(HEAD_LENGTH, "")}"')
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in server.body(0)[1].items()]
    lines += [
        "request = function()",
        f"  n = n + 1; local k = (n * 37) % {TASKS}",
        f'  if lengths[k] ~= "" then wrk.headers["{HEAD_LENGTH}"] = lengths[k] end',
        f'  return wrk.format(nil, "{server.path}", nil, bodies[k])',
        "end",
    ]
    path = folder / "requests.lua"
    path.write_text("\n".join(lines))
    return path


def drive(url: str, script: Path, connections: int, seconds: float) -> dict[str, float]:
    base = "/".join(url.split("/", 3)[:3])
    command = [
        "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), base,
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}

    def latency(percent: str) -> float:
        number, unit = re.findall(rf"{percent}%\s+([\d.]+)(us|ms|s)", output)[0]
        return float(number) * units[unit]

    if errors := re.findall(r"Non-2xx or 3xx responses: (\d+)", output):
        raise RuntimeError(f"{errors[0]} answers were errors")
    return {
        "requests_per_s": float(re.findall(r"Requests/sec:\s+([\d.]+)", output)[0]),
        "p50_ms": latency("50"),
        "p99_ms": latency("99"),
    }


def measure(server: Server, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with started(server, folder) as url:
                check(server, url)
                script = script_of(server, folder)
                drive(url, script, 8, 1.0)
                found = {f"{c} connections": drive(url, script, c, seconds) for c in (1, 8, 64)}
        except (RuntimeError, OSError, subprocess.CalledProcessError, httpx.HTTPError) as error:
            return {"name": server.name, "error": f"{type(error).__name__}: {error}"[-1500:]}
    return {"name": server.name, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    found = []
    for server in SERVERS:
        if asked.only.lower() in server.name.lower():
            found.append(measure(server, asked.seconds))
            print(json.dumps(found[-1]), flush=True)
    ran = [one for one in found if "error" not in one]
    apart = ("superposed", "bare", "FastAPI")
    peers = [one for one in ran if not one["name"].startswith(apart)]
    values: dict[str, Any] = {"machine": machine(), "tasks": TASKS, "servers": found}
    if peers:
        at = "64 connections"
        best = max(peers, key=lambda one: one[at]["requests_per_s"])
        values["best_peer"] = best["name"]
        values["requests_over_best_peer"] = {
            one["name"]: one[at]["requests_per_s"] / best[at]["requests_per_s"] for one in ran
        }
    bare = {one["name"].partition(", ")[2].partition(" ")[0]: one for one in ran if one["name"].startswith("bare")}
    own = {one["name"].partition(", ")[2]: one for one in ran if one["name"].startswith("superposed")}
    values["requests_over_bare_server"] = {
        f"{form}, {at}": own[form][at]["requests_per_s"] / bare[form][at]["requests_per_s"]
        for form in own.keys() & bare.keys()
        for at in ("1 connections", "8 connections", "64 connections")
    }
    write_json(asked.results, values)


if __name__ == "__main__":
    main()
