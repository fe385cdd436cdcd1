"""The command line and a real server, as a user has them."""

from __future__ import annotations

import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from demo.server_process import Server
from experiments.datasets import sklearn_dataset
from superposed_client import Client, ConnectionFailed
from superposed_service.settings import Settings
from tests.conftest import make_directory
from tests.helpers.forked import Forked


def superposed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in ({"COLUMNS": "200"} | environment).items():
            patch.setenv(name, value)
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        status = Forked(list(arguments), output, errors).wait(120)
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def test_init_says_what_it_made(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    made = superposed(
        "init", path, "--inputs", "20", "--hidden", "8", "--outputs", "3", "--family", "complex", "--seed", "5"
    )
    assert made.returncode == 0, made.stderr
    assert "complex" in made.stderr
    assert "protects nothing" in made.stderr
    again = superposed("init", path)
    assert again.returncode == 1
    assert "already" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("init", "X", "--family", "hadamard"), "phase"),
        (("init", "X", "--hidden", "a,b"), "--hidden"),
        (("init", "X", "--inputs", "0"), "greater than or equal to 1"),
        (("init", "X", "--network", "transformer"), "mlp"),
        (("serve", "X", "--host", "0.0.0.0"), "--allow-unauthenticated"),
        (("serve", "X", "--device", "tpu"), "'auto', 'cpu' or 'cuda'"),
    ],
)
def test_mistakes_get_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    result = superposed(*(str(tmp_path / "x") if word == "X" else word for word in arguments))
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_version_and_help() -> None:
    assert superposed("--version").stdout.strip() == "0.2.0"
    shown = superposed("--help").stdout
    assert all(command in shown for command in ("init", "serve", "config", "keys"))


def test_settings_have_their_whole_names_at_80_columns() -> None:
    shown = superposed("config", "show", COLUMNS="80").stdout
    assert all(f" {name} " in shown for name in Settings.model_fields)


def test_a_second_owner_is_refused(server: Server) -> None:
    result = superposed("serve", str(server.directory), "--port", "0")
    assert result.returncode == 1
    assert "another process owns" in result.stderr


def test_a_port_that_another_server_has(server: Server, tmp_path: Path) -> None:
    result = superposed("serve", str(make_directory(tmp_path / "store")), "--port", server.url.rpartition(":")[2])
    assert result.returncode == 3
    assert result.stderr.endswith("for the reason above; --port takes another port\n")


def test_a_store_whose_manifests_are_gone_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    for manifest in (path / "snapshots").glob("*.json"):
        manifest.unlink()
    result = superposed("serve", str(path), "--port", "0")
    assert result.returncode == 1
    assert "no snapshot has a good manifest" in result.stderr
    assert len(list((path / "snapshots").glob("*.safetensors"))) == 1


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    path = str(make_directory(tmp_path / "store"))
    wrong = superposed("serve", path, SUPERPOSED_MAX_ROWS="abc")
    assert wrong.returncode == 1
    assert "max_rows" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    if not torch.cuda.is_available():
        assert "no CUDA device" in superposed("serve", path, "--port", "0", SUPERPOSED_DEVICE="cuda").stderr


def test_what_was_learned_survives_a_clean_stop(tmp_path: Path) -> None:
    data = sklearn_dataset("wine")
    scale = data.train_x.std(0).tolist()
    server = Server(tmp_path / "store")
    with server, server.client() as client:
        assert client.store().network["inputs"] == 784  # serve made a store with the defaults
        task = client.task("wine", labels=data.labels, offset=data.train_x.mean(0).tolist(), scale=scale)
        task.fit(data.train_x, data.named(data.train_y), epochs=40, batch_size=32, seed=0)
        score = task.score(data.test_x, data.named(data.test_y))
        logits = client.infer("wine", data.test_x, fields=["logits"]).logits
        before = client.get_task("wine")
    assert score > 0.9
    with Client(server.url) as gone, pytest.raises(ConnectionFailed):
        gone.update("wine", data.test_x, data.named(data.test_y))
    with server, server.client() as client:
        assert client.get_task("wine") == before
        np.testing.assert_array_equal(client.infer("wine", data.test_x, fields=["logits"]).logits, logits)
        assert client.store().sequence == before.last_sequence
        listening = client.events()
        assert next(listening).kind == "load"
        started = time.monotonic()
        server.stop()
        assert {event.kind for event in listening} <= {"load"}  # the stop did not wait for the stream's end
        assert time.monotonic() - started < 20


def test_many_clients_at_once(server: Server) -> None:
    """Updates of many tasks and inference together: every answer is right, nothing is lost."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 64))
    with server.client() as client:
        start = client.store().sequence

    def work(number: int) -> tuple[list[int], int]:
        key = f"many-{number}"
        with server.client() as client:
            client.register_task(key, outputs=10)
            sequences = []
            for _ in range(10):
                sequences.append(client.update(key, x, [number] * 40).sequence)
                assert len(client.infer(key, x).labels or ()) == 40
            return sequences, client.get_task(key).rows_seen

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    every = [sequence for sequences, _ in results for sequence in sequences]
    assert len(set(every)) == 80
    assert all(list(sequences) == sorted(sequences) for sequences, _ in results)
    assert [rows for _, rows in results] == [400] * 8
    with server.client() as client:
        assert client.store().sequence == start + 88
        for number in range(8):  # one after another: an update of another task in between moves a few answers
            client.update(f"many-{number}", x, [number] * 40)
            assert client.infer(f"many-{number}", x, fields=["labels"]).labels == [number] * 40


def test_the_api_is_documented(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert {"/v1/infer", "/v1/update", "/v1/tasks/{key}", "/v1/capacity", "/health/ready"} <= set(document["paths"])
    body = document["paths"]["/v1/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["examples"]
    rows = {"inputs", "records", "texts", "images"}
    assert set(body["properties"]) == {"context", "contexts", "return", "k"} | rows
    assert httpx.get(f"{server.url}/docs").status_code == 200
    problems = document["paths"]["/v1/infer"]["post"]["responses"]["422"]["content"]
    assert list(problems) == ["application/problem+json"]
