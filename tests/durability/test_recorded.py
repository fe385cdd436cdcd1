"""Directories recorded by every release (`tests.durability.record`) open, answer, verify and learn on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from superposed_service.storage import DataDirectory
from superposed_service.verification import verify
from tests.conftest import serving

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*/*.tar.xz"))
# Of logits near 1: another CPU, or another version of the arithmetic, replays records to rounding.
TOLERANCE = 1e-3


def unpacked(archive: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A recording as a data directory, and what its server last said."""
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    name = archive.name.removesuffix(".tar.xz")
    return folder / name, json.loads(archive.with_name(f"{name}.json").read_text())


def assert_answers(http: httpx.Client, expected: dict[str, Any]) -> None:
    assert expected["probes"]
    for probe in expected["probes"]:
        answer = http.post("/v1/infer", json={name: probe[name] for name in ("context", "inputs", "return")})
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["logits"], probe["logits"], atol=TOLERANCE, rtol=TOLERANCE)
    store = http.get("/v1/store").json()
    assert store["sequence"] >= expected["sequence"]
    assert expected["tasks"]
    for key, facts in expected["tasks"].items():
        task = http.get(f"/v1/tasks/{key}").json()
        assert {name: task[name] for name in facts} == facts


def test_there_is_a_recording_of_every_kind() -> None:
    from tests.durability.record import RECORDINGS

    assert {archive.name.removesuffix(".tar.xz") for archive in RECORDED} == set(RECORDINGS)


@pytest.mark.parametrize("archive", RECORDED, ids=lambda path: f"{path.parent.name}-{path.name[:-7]}")
def test_a_recorded_directory_opens_answers_verifies_and_learns_on(archive: Path, tmp_path: Path) -> None:
    path, expected = unpacked(archive, tmp_path)
    with DataDirectory(path) as directory:
        findings = verify(directory)
    assert findings
    assert [one for one in findings if one.remedy is not None] == []
    with serving(path) as http:
        if expected["api_key"]:
            http.headers["Authorization"] = f"Bearer {expected['api_key']}"
        assert_answers(http, expected)
        quarantined = {one["source"] for one in http.get("/v1/quarantine").json()}
        key = next(
            one for one, facts in expected["tasks"].items() if facts["updates"] and one not in quarantined
        )
        loss = http.get(f"/v1/tasks/{key}").json()["loss"]
        before = http.get("/v1/store").json()["sequence"]
        body = {"context": key, "inputs": [[0.1] * 6], "targets": [0 if loss == "cross_entropy" else 0.5]}
        assert http.post("/v1/update", json=body).json()["sequence"] == before + 1
        after = http.post(
            "/v1/infer", json={"context": key, "inputs": [[0.1] * 6], "return": ["logits"]}
        ).json()
    with serving(path) as http:
        if expected["api_key"]:
            http.headers["Authorization"] = f"Bearer {expected['api_key']}"
        body = {"context": key, "inputs": [[0.1] * 6], "return": ["logits"]}
        assert http.post("/v1/infer", json=body).json()["logits"] == after["logits"]
