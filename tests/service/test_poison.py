"""A poisoned stream through one API key: caught, the others unharmed, and out of the weights in seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from experiments.datasets import sklearn_dataset
from superposed_service.engine.canary_measure import measure
from tests.conftest import make_directory, serving
from tests.helpers.api_keys import make
from tests.helpers.http import problem
from tests.helpers.machine import Machine
from tests.helpers.sgd_config import CONFIG

DIGITS = sklearn_dataset("digits")
TASKS = [f"good-{number}" for number in range(4)]


class Tenants:
    """Two tenants of one server: digits with permuted pixels, and one who means harm."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.draw = np.random.default_rng(0)
        self.honest = make(http, "update", tasks="good-*")
        self.foe = make(http, "update", tasks="bad-*")
        for key in TASKS:
            self.register(key, self.honest)
        self.register("bad-1", self.foe)

    def register(self, key: str, who: dict[str, str]) -> None:
        body = {"key": key, "outputs": 10, "scale": [16.0] * 64}
        assert self.http.post("/v1/tasks", json=body, headers=who).status_code == 201

    def rows(self, key: str, x: Any) -> Any:
        return x[:, np.random.default_rng(sum(key.encode())).permutation(64)]

    def teach(self, updates: int) -> None:
        for number in range(updates):
            key = TASKS[number % len(TASKS)]
            chosen = self.draw.integers(0, len(DIGITS.train_y), 64)
            inputs, targets = self.rows(key, DIGITS.train_x[chosen]), DIGITS.train_y[chosen]
            answer = self.send(key, inputs, targets, self.honest)
            assert answer.status_code == 200, answer.text

    def send(self, key: str, inputs: Any, targets: Any, who: dict[str, str]) -> httpx.Response:
        body = {"context": key, "inputs": inputs.tolist(), "targets": targets.tolist(), "steps": 2}
        return self.http.post("/v1/update", json=body, headers=who)

    def accuracies(self) -> list[float]:
        found = []
        for key in TASKS:
            body = {"context": key, "inputs": self.rows(key, DIGITS.test_x).tolist(), "targets": DIGITS.test_y.tolist()}
            answer = self.http.post("/v1/evaluate", json=body, headers=self.honest)
            found.append(answer.raise_for_status().json()["accuracy"])
        return found


@pytest.mark.parametrize("attack", ["flipped and huge", "not finite"])
def test_a_poisoned_stream(tmp_path: Path, attack: str) -> None:
    path = make_directory(tmp_path / "store", CONFIG)
    with serving(path, poison_interval_steps=24, max_rows=1000, max_body_bytes=2**22) as http:
        http.headers.update(make(http, "admin"))
        tenants = Tenants(http)
        tenants.teach(480)
        before = tenants.accuracies()
        assert min(before) > 0.7

        caught = None
        for number in range(100):
            chosen = tenants.draw.integers(0, len(DIGITS.train_y), 64)
            flipped = 9 - DIGITS.train_y[chosen]
            scale = 100.0 if attack == "flipped and huge" else 1e37
            answer = tenants.send("bad-1", DIGITS.train_x[chosen] * scale, flipped, tenants.foe)
            if answer.status_code != 200:
                caught = answer
                break
            if number % 2:
                tenants.teach(1)
        assert caught is not None
        if attack == "not finite":
            problem(caught, 422, "update-refused")
            assert tenants.accuracies() == before  # the caps caught the first: bit for bit as it was
            return
        problem(caught, 423, "quarantined")
        sources = {entry["source"] for entry in http.get("/v1/quarantine").json()}
        assert sources
        assert sources <= {"bad-1", f"key:{tenants.foe['Authorization'].split('-')[1]}"}

        started = time.monotonic()
        undone = http.post(
            "/v1/rollback", json={"without": {"api_key": tenants.foe["Authorization"].split("-")[1]}}, timeout=120
        )
        seconds = time.monotonic() - started
        assert undone.status_code == 200, undone.text
        assert undone.json()["excluded"]
        after = tenants.accuracies()
        assert all(was - now <= 0.01 for was, now in zip(before, after, strict=True)), (before, after)
        assert seconds < 30
        tenants.teach(8)  # and life goes on


def test_tasks_that_nobody_can_harm_are_measured_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure canaries costs as much as an update; of tasks that answer by chance it tells nothing."""
    measured: list[int] = []

    def counted(store: Any, canaries: Any) -> dict[str, float]:
        measured.append(store.sequence)
        return measure(store, canaries)

    monkeypatch.setattr("superposed_service.engine.poison_detector.measure", counted)
    # Only a task that is nearly always right could be harmed by as much, and noise is not learned so well.
    machine, draw = Machine(tmp_path / "store", poison_threshold=0.9), np.random.default_rng(0)
    for key in "ab":
        machine.register(key)
    for number in range(160):
        machine.update("ab"[number % 2], draw.normal(size=(4, 4)).tolist(), draw.integers(0, 2, 4).tolist())
    assert 160 // 16 <= len(measured) <= 20
    machine.directory.close()
