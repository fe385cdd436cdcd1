"""Learning a model in, and consolidating: what is charged, what ends them, how much one may ask for."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from superposed_client._safetensors import dump
from superposed_service.errors import Unauthenticated
from superposed_service.runtime import distillation
from superposed_service.runtime.distillation import learn_model
from superposed_service.runtime.resumable import ResumableRequest
from superposed_service.settings import Settings
from superposed_service.storage.idempotency import IdempotencyKey
from tests.conftest import make_directory, serving, wait_for
from tests.helpers.api_keys import make
from tests.helpers.engines import make_store, running
from tests.helpers.http import problem
from tests.helpers.rehearsing_config import CONFIG

URL = "/v1/tasks/copy/model"


def network(inputs: int, rows: int) -> bytes:
    """One that picks the first three features, and rows for it."""
    return dump(
        {
            "layers.0.weight": np.eye(3, inputs), "layers.0.bias": np.zeros(3),
            "input.offset": np.zeros(inputs), "input.scale": np.ones(inputs),
            "rows": np.random.default_rng(rows).normal(size=(rows, inputs)),
        },
        {"activation": "relu", "normalisation": {"kind": "none", "epsilon": 1e-5}},
    )  # fmt: skip


def test_only_what_is_learned_is_charged_and_only_once() -> None:
    async def scenario() -> None:
        spent: list[tuple[int, int]] = []
        checks = 0

        async def ends_at_the_third() -> None:
            nonlocal checks
            checks += 1
            if checks == 3:
                raise Unauthenticated("no more")

        async with running(make_store()) as engine:

            async def learn(**more: Any) -> dict[str, Any]:
                resumable = ResumableRequest(IdempotencyKey("k", b"r" * 32), None, **more)
                data, settings = network(8, 250), Settings()
                return await learn_model(
                    engine, settings, "a", data, 3, lambda *costs: spent.append(costs), resumable
                )

            with pytest.raises(Unauthenticated):
                await learn(check=ends_at_the_third)
            assert await engine.call(lambda store: store.tasks.get("a").updates) == 1 + 2
            first = await learn()
            assert await learn() == first
            assert first["updates"] == 6
            assert await engine.call(lambda store: store.tasks.get("a").updates) == 1 + 6
        assert spent == [(600, 6), (400, 4), (0, 0)]

    asyncio.run(scenario())


def test_whoever_may_not_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    distillation_set = distillation.distillation_set

    def noted(*given: Any) -> Any:
        computed.append(threading.current_thread().name)
        return distillation_set(*given)

    monkeypatch.setattr(distillation, "distillation_set", noted)
    with serving(make_directory(tmp_path / "store", CONFIG), max_request_steps=8) as http:
        assert http.post("/v1/tasks", json={"key": "copy", "outputs": 3}).status_code == 201
        body = network(6, 200)
        problem(http.put(URL, params={"epochs": 5}, content=body), 413, "batch-too-large")
        problem(http.post("/v1/consolidate", json={"steps": 9}), 413, "batch-too-large")
        http.headers.update(make(http, "admin"))
        poor = make(http, "update", updates_per_second=0.01)
        assert http.put(URL, params={"epochs": 2}, content=body, headers=poor).status_code == 200
        assert len(computed) == 1
        assert computed[0].startswith("superposed-teacher")
        problem(http.put(URL, params={"epochs": 2}, content=body, headers=poor), 429, "quota-exceeded")
        assert len(computed) == 1


class TestWhatEndsIt:
    @pytest.fixture(autouse=True)
    def slowly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An update takes a moment: no test needs many of them."""
        update = distillation.Engine.update

        async def slow(*given: Any) -> Any:
            await asyncio.sleep(0.05)
            return await update(*given)

        monkeypatch.setattr(distillation.Engine, "update", slow)

    def test_a_revoked_key(self, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store", CONFIG)) as http:
            http.post("/v1/tasks", json={"key": "copy", "outputs": 3})
            http.headers.update(make(http, "admin"))
            mine = make(http, "update")
            revoking = threading.Timer(0.5, http.delete, (f"/v1/keys/{mine['Authorization'].split('-')[1]}",))
            revoking.start()
            with httpx.Client(base_url=http.base_url, timeout=60) as other:
                answer = other.put(URL, params={"epochs": 300}, content=network(6, 99), headers=mine)
            revoking.join()
            problem(answer, 401, "unauthenticated")
            assert 0 < http.get("/v1/tasks/copy").json()["updates"] < 300

    def test_a_client_that_leaves(self, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store", CONFIG)) as http:
            http.post("/v1/tasks", json={"key": "copy", "outputs": 3})
            with httpx.Client(base_url=http.base_url, timeout=0.5) as other, pytest.raises(httpx.ReadTimeout):
                other.put(URL, params={"epochs": 300}, content=network(6, 99))
            left = 'path="/v1/tasks/{key}/model",status_code="499"'
            wait_for(lambda: left in http.get("/metrics").text)
            assert 0 < http.get("/v1/tasks/copy").json()["updates"] < 300
            counted = http.get("/metrics").text
            assert 'status_code="500"' not in counted


def test_a_quarantined_task_is_told_why(tmp_path: Path) -> None:
    with serving(make_directory(tmp_path / "store", CONFIG)) as http:
        http.post("/v1/tasks", json={"key": "copy", "outputs": 3})
        http.post("/v1/quarantine", json={"source": "copy", "reason": "flipped labels"})
        answer = http.put(URL, params={"epochs": 1}, content=network(6, 99))
        detail = str(problem(answer, 423, "quarantined")["detail"])
        assert "flipped labels" in detail
        assert "client.release('copy')" in detail


def test_passes_was_renamed_and_says_so(tmp_path: Path) -> None:
    with serving(make_directory(tmp_path / "store")) as http:
        answer = http.put(URL, params={"passes": 3}, content=b"")
        assert problem(answer, 422, "invalid-request")["expected"] == "epochs"
