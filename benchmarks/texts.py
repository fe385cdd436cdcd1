"""Texts served: a thousand tenants' classifiers on one encoder, one text a request.

    benchmarks/peers/setup.sh texts-litserve texts-mlserver
    python -m benchmarks.texts --results docs/results/benchmarks/texts.json

This service beside LitServe and MLServer, which have the same exported encoder in the same runtime and thread
count, and a dict of logistic regressions. `wrk` drives 64 connections; once with texts that come again (the
peers keep embeddings too, by `lru_cache`), once with a new text in each request. A server is timed once its
answers were compared with its models'. All take turns, and the median of theirs counts. Beside them, the
encoder alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import HERE, PEERS, Server, drive, started
from demo.server_process import free_port
from experiments.datasets import clinc
from experiments.report import machine, write_json
from superposed import TaskSchema, WeightStore, learn, register, seeded_secret
from superposed.config import StoreConfig
from superposed.encoders import Encoder, describe, open_encoder
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

TENANTS, CLASSES, ROWS_A_CLASS, CONNECTIONS = 1000, 10, 3, 64
SPEC = "sentence-transformers:all-MiniLM-L6-v2"
# Texts of one tenant that are asked about again and again.
KNOWN = 2


def tenants(draw: np.random.Generator, encoder: Encoder) -> list[dict[str, Any]]:
    """Each tenant's labels, rows and targets, and the texts that it is asked."""
    data = clinc()
    pools = {label: draw.permutation(data.texts_of("train", label))[:20] for label in data.labels}
    vectors = {label: encoder.encode([str(one) for one in pool]) for label, pool in pools.items()}
    found = []
    for number in range(TENANTS):
        domain = list(data.domains.values())[number % len(data.domains)]
        labels = sorted(draw.choice(domain, CLASSES, replace=False).tolist())
        places = {label: draw.choice(20, ROWS_A_CLASS + 1, replace=False) for label in labels}
        rows = np.concatenate([vectors[label][places[label][:-1]] for label in labels])
        asked = [str(pools[label][places[label][-1]]) for label in labels[:KNOWN]]
        found.append({"labels": labels, "rows": rows, "targets": np.repeat(labels, ROWS_A_CLASS), "asked": asked})
    return found


def save_regressions(folder: Path, everyone: list[dict[str, Any]]) -> None:
    from sklearn.linear_model import LogisticRegression

    fitted = [LogisticRegression(C=10).fit(one["rows"], one["targets"]) for one in everyone]
    np.savez(
        folder / "regressions.npz",
        weights=np.stack([one.coef_ for one in fitted]).astype(np.float32),
        biases=np.stack([one.intercept_ for one in fitted]).astype(np.float32),
        labels=np.stack([one.classes_ for one in fitted]),
    )


def make_store(folder: Path, everyone: list[dict[str, Any]]) -> WeightStore:
    encoder = describe(SPEC, folder / "encoder")
    config = StoreConfig.of_preset("texts", {"encoders": {"texts": encoder}})
    store = WeightStore(config, secret=seeded_secret(0))
    for number, one in enumerate(everyone):
        schema = TaskSchema(
            key=f"t{number}", inputs=384, outputs=CLASSES, labels=tuple(one["labels"]), kind="texts",
            encoder="texts", scaling="running",
        )  # fmt: skip
        register(store, schema)
        learn(store, schema.key, one["rows"], one["targets"].tolist(), steps=config.optimizer.steps)
    return store


def start_own(store: WeightStore, folder: Path, kept: bool, _port: int, place: Path) -> tuple[list[str], Path]:
    directory = place / "store"
    with DataDirectory(directory) as opened:
        begin(opened, store)
    shutil.copytree(folder / "encoder", directory / "encoders" / "texts")
    os.environ["SUPERPOSED_EMBEDDING_CACHE_BYTES"] = str(2**26 if kept else 0)
    return [".venv/bin/superposed", "serve", str(directory), "--port", str(_port)], Path.cwd()


def start_mlserver(port: int, folder: Path) -> tuple[list[str], Path]:
    for name in ("text_mlserver.py", "text_models.py"):
        shutil.copy(HERE / name, folder)
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({"parallel_workers": 0, "debug": False} | ports))
    model = {
        "name": "k", "implementation": "text_mlserver.Texts", "max_batch_size": 64, "max_batch_time": 0.005,
    }  # fmt: skip
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(PEERS / "texts-mlserver/bin/mlserver"), "start", "."], folder


def start_litserve(_port: int, _folder: Path) -> tuple[list[str], Path]:
    return [str(PEERS / "texts-litserve/bin/python"), str(HERE / "text_litserve.py")], HERE


def own_body(task: int, text: str) -> dict[str, Any]:
    return {"context": f"t{task}", "texts": [text], "return": ["labels"]}


def v2_body(task: int, text: str) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "task", "shape": [1, 1], "datatype": "INT64", "data": [task]},
            {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]},
        ]
    }


def servers(store: WeightStore, folder: Path, everyone: list[dict[str, Any]], kept: bool) -> list[Any]:
    """Each server with its request for a task's text."""
    encoder = open_encoder(SPEC, folder / "encoder")
    asked = [one["asked"][0] for one in everyone]
    vectors = encoder.encode(asked)

    def own_labels() -> list[str]:
        logits = store.answers(store.batch_per_row([f"t{k}" for k in range(TENANTS)], list(vectors))).numpy()
        return [one["labels"][int(row[:CLASSES].argmax())] for one, row in zip(everyone, logits, strict=True)]

    def peer_labels() -> list[str]:
        saved = np.load(folder / "regressions.npz")
        scores = np.einsum("kcd,kd->kc", saved["weights"], vectors) + saved["biases"]
        return [str(labels[best]) for labels, best in zip(saved["labels"], scores.argmax(1), strict=True)]

    def server(name: str, start: Any, path: str, label: Callable[[Any], Any], expected: Any) -> Server:
        return Server(name, start, path, lambda _: (b"", {}), label, expected)

    return [
        (
            server(
                "superposed", partial(start_own, store, folder, kept), "/v1/infer",
                lambda answer: answer.json()["labels"][0], own_labels,
            ),
            own_body,
        ),
        (
            server(
                "LitServe", start_litserve, "/predict", lambda answer: answer.json()["label"], peer_labels
            ),
            lambda task, text: {"task": task, "text": text},
        ),
        (
            server(
                "MLServer", start_mlserver, "/v2/models/k/infer",
                lambda answer: answer.json()["outputs"][0]["data"][0], peer_labels,
            ),
            v2_body,
        ),
    ]  # fmt: skip


def script(path: str, body: Any, everyone: list[dict[str, Any]], kept: bool, folder: Path) -> Path:
    """A wrk script: a task's known text each, or one with a number that never came before."""
    lines = ['wrk.method = "POST"', 'wrk.headers["Content-Type"] = "application/json"', "local bodies = {}"]
    for place in range(TENANTS):
        for known in range(KNOWN):
            text = everyone[place]["asked"][known] + ("" if kept else " @@@")
            data = json.dumps(body(place, text)).replace("\\", "\\\\").replace("'", "\\'")
            lines.append(f"bodies[{place * KNOWN + known}] = '{data}'")
    new = "bodies[k]" if kept else 'string.gsub(bodies[k], "@@@", tostring(n))'
    lines += [
        f"local n = {int(time.time())}", "request = function()",
        f"  n = n + 1; local k = (n * 37) % {TENANTS * KNOWN}",
        f'  local body = {new}', f'  return wrk.format(nil, "{path}", nil, body)', "end",
    ]  # fmt: skip
    file = folder / "requests.lua"
    file.write_text("\n".join(lines))
    return file


def measure(server: Server, body: Any, everyone: list[dict[str, Any]], kept: bool, seconds: float) -> Any:
    first = json.dumps(body(0, everyone[0]["asked"][0])).encode()
    ready = replace(server, body=lambda _: (first, {"Content-Type": "application/json"}))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        try:
            with started(ready, place) as url:
                for task, label in enumerate(server.expected()[:100]):
                    answer = httpx.post(url, json=body(task, everyone[task]["asked"][0]), timeout=60)
                    if answer.status_code != 200 or server.label(answer) != label:
                        raise RuntimeError(f"t{task}: expected {label}, answered {answer.text[:300]}")
                lua = script(server.path, body, everyone, kept, place)
                drive(url, lua, CONNECTIONS, 14.0 if kept else 2.0)  # every known text has come once
                return {"name": server.name, **drive(url, lua, CONNECTIONS, seconds)}
        except (RuntimeError, OSError, subprocess.CalledProcessError, httpx.HTTPError) as error:
            return {"name": server.name, "error": f"{type(error).__name__}: {error}"[-1500:]}


def encoder_alone(encoder: Encoder, everyone: list[dict[str, Any]]) -> dict[str, float]:
    texts = [one["asked"][0] for one in everyone]
    found = {}
    for size in (1, 16, 64):
        encoder.encode(texts[:size])
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 4:
            start = count % (TENANTS - size)
            encoder.encode(texts[start : start + size])
            count += size
        found[f"texts/s, {size} a call"] = count / (time.perf_counter() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        describe(SPEC, folder / "encoder")
        encoder = open_encoder(SPEC, folder / "encoder")
        everyone = tenants(np.random.default_rng(0), encoder)
        save_regressions(folder / "encoder", everyone)
        shutil.copy(folder / "encoder" / "regressions.npz", folder)
        store = make_store(folder, everyone)
        values: dict[str, Any] = {"machine": machine(), "tenants": TENANTS, "connections": CONNECTIONS}
        values["encoder alone"] = encoder_alone(encoder, everyone)
        os.environ["BENCHMARK_FOLDER"] = str(folder / "encoder")
        for kept in (True, False):
            os.environ["BENCHMARK_KEPT"] = str(TENANTS * KNOWN if kept else 0)
            several = servers(store, folder, everyone, kept)
            turns = [
                [measure(server, body, everyone, kept, asked.seconds) for server, body in several]
                for _ in range(asked.turns)
            ]
            print(json.dumps(turns), flush=True)
            found = [_median(one) for one in zip(*turns, strict=True)]
            values["known texts" if kept else "new texts"] = _compared(found)
    write_json(asked.results, values)


def _median(turns: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The middle of a server's turns, each figure by itself; an error where there was one."""
    wrong = [turn for turn in turns if "error" in turn]
    names = [name for name in turns[0] if name != "name"]
    middle = {name: float(np.median([turn[name] for turn in turns])) for name in names if not wrong}
    return wrong[0] if wrong else {"name": turns[0]["name"], **middle}


def _compared(found: list[dict[str, Any]]) -> dict[str, Any]:
    ran = [one for one in found[1:] if "error" not in one]
    best = max((one["requests_per_s"] for one in ran), default=None)
    ours = found[0].get("requests_per_s")
    ratio = {} if best is None or ours is None else {"requests over the best peer": ours / best}
    return {"servers": found} | ratio


if __name__ == "__main__":
    main()
