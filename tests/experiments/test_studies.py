"""The experiments beside the permutations, at a size that says only that they run and what they write."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import filling, incremental, intrinsic, located, personalisation, rotating, variants
from experiments.datasets import DataUnavailable, data_dir, idx_dataset
from experiments.images import load_images, turned
from experiments.report import check_settings
from experiments.summaries import summarise
from superposed.errors import ConfigError


@pytest.fixture(autouse=True)
def _needs_mnist() -> None:
    try:
        idx_dataset("mnist")
    except DataUnavailable as error:
        pytest.skip(error.message)


def written(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / f"{name}.json").read_text())
    assert {"config", "machine"} <= set(found)
    return found


def test_images_turn() -> None:
    images = load_images()
    x = images.test_x[:5]
    picture = (x + images.mean).view(-1, 28, 28)
    for turns, quarter in ((0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)):
        found = (turned(x, turns, images.mean) + images.mean).view(-1, 28, 28)
        assert torch.allclose(found, torch.rot90(picture, quarter, (1, 2)), atol=1e-4)


def test_rotating(tmp_path: Path) -> None:
    for method, gaps in (*((method, False) for method in rotating.METHODS), ("power", True)):
        config = rotating.RotatingConfig(method=method, units=16, turns=1, steps=20, batch=32, gaps=gaps)  # type: ignore[arg-type]
        result = rotating.run(config, tmp_path, progress=False)
        assert len(result["accuracy"][0]) == len(result["angles"]) == 60
        assert written(tmp_path, config.name)["mean"] == pytest.approx(np.mean(result["accuracy"][-1]))
    assert summarise("rotating-mnist", tmp_path).exists()
    assert "power-gaps" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("drift", ["permuted", "turned"])
def test_personalisation(tmp_path: Path, drift: str) -> None:
    for method in personalisation.METHODS:
        config = personalisation.PersonalConfig(
            method=method,
            drift=drift,
            users=2,
            rows=40,
            passes=2,
            units=16,  # type: ignore[arg-type]
        )
        result = personalisation.run(config, tmp_path, progress=False)
        assert len(result["each"]) == 2
        assert result["mean"] == pytest.approx(np.mean(result["each"]))
    assert summarise("personalisation", tmp_path).exists()


def test_incremental(tmp_path: Path) -> None:
    means = {}
    for method in incremental.METHODS:
        config = incremental.IncrementalConfig(method=method, steps=20, batch=32, channels=(4, 8))
        means[method] = incremental.run(config, tmp_path, progress=False)["mean"]
        assert [len(one) for one in written(tmp_path, config.name)["after"]] == [1, 2, 3, 4, 5]  # type: ignore[attr-defined]
    assert means["superposed"] > means["none"]
    assert summarise("incremental", tmp_path).exists()


def test_a_result_of_other_settings_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    short, long = (incremental.IncrementalConfig(method="none", steps=steps) for steps in (500, 2000))
    assert short.name != long.name
    config = personalisation.PersonalConfig(method="shared", users=3, rows=10)
    path = tmp_path / f"{config.name}.json"
    path.write_text(json.dumps({"config": config.model_dump(mode="json")}))
    check_settings(path, config)
    other = personalisation.PersonalConfig(method="shared", users=4, rows=10)
    assert other.name == config.name
    with pytest.raises(ConfigError, match="other settings") as caught:
        check_settings(path, other)
    assert caught.value.received == {"users": 3}


def test_pictures_in_zip_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if (data_dir() / "cifar10").exists():
        images = load_images("cifar10")
        assert images.train_x.shape[1] == images.features == 3 * 32 * 32
        assert sorted(set(images.test_y.tolist())) == list(range(10))
        assert float(images.train_x.mean()) == pytest.approx(0, abs=1e-5)
    monkeypatch.setenv("SUPERPOSED_DATA_DIR", str(tmp_path))
    with pytest.raises(DataUnavailable, match="no pictures"):
        load_images("cifar10")


def test_located(tmp_path: Path) -> None:
    config = located.LocatedConfig(tasks=3, steps=30, kept_rows=50)
    result = located.run(config, tmp_path, progress=False)
    assert set(result["found"]["entropy"]) == {"1", "4", "16"}
    assert result["found"]["energy above the mean"]["16"] > 60
    assert summarise("locate", tmp_path).exists()
    [line] = [line for line in (tmp_path / "table.md").read_text().splitlines() if "| energy |" in line]
    shown = [float(share) for share in re.findall(r"\d+\.\d", line)]
    assert shown == pytest.approx([result["found"]["energy"][size] for size in ("1", "4", "16")], abs=0.05)


def test_filling(tmp_path: Path) -> None:
    config = filling.CapacityConfig(units=16, tasks=12, steps=10, evaluate_every=3)
    result = filling.run(config, tmp_path, progress=False)
    assert [point["tasks"] for point in result["points"]] == [3, 6, 9, 12]
    assert all(point["crosstalk_measured"] > 0 for point in result["points"])
    assert "judged" in result["forecasts"]
    assert summarise("capacity", tmp_path).exists()
    row = "| [16 units, 12 tasks, 10 steps](units16-tasks12-steps10-seed0.json) | 12 |"
    assert row in (tmp_path / "table.md").read_text()


def test_how_many_more_tasks_there_were() -> None:
    points = [{"tasks": tasks, "mean": mean} for tasks, mean in ((10, 95.0), (20, 94.5), (30, 93.5), (40, 90.0))]
    assert filling._fitted(points) == pytest.approx(15.0)  # 94.0 lies half-way from 20 to 30
    assert filling._fitted(points[2:]) == pytest.approx(10 / 3.5)
    assert filling._fitted(points[3:]) is None


def test_intrinsic(tmp_path: Path) -> None:
    config = intrinsic.IntrinsicConfig(units=16, dimensions=(5, 500, 0), kept=(1.0, 0.1), steps=60)
    result = intrinsic.run(config, tmp_path, progress=False)
    by_directions = result["accuracy_by_directions"]
    assert by_directions["5"] < by_directions["500"] <= by_directions["0"] + 5
    assert result["accuracy_by_share_kept"]["1.0"] == by_directions["0"]
    assert result["weights"] == sum(16 * width for width in (786, 18, 18)) + 10 * 18
    assert summarise("intrinsic-dimension", tmp_path).exists()
    assert "along 500 directions" in (tmp_path / "table.md").read_text()


def test_a_subspace_has_orthonormal_directions() -> None:
    start = {"a": torch.zeros(7, 3), "b": torch.zeros(11)}
    space = intrinsic._Subspace(start, 4, seed=1)
    columns = []
    for place in range(4):
        space.theta = torch.zeros(4)
        space.theta[place] = 1.0
        columns.append(torch.cat([value.flatten() for value in space.weights().values()]))
    matrix = torch.stack(columns)
    assert torch.allclose(matrix @ matrix.T, torch.eye(4), atol=1e-6)


def test_every_variant_learns_otherwise(tmp_path: Path) -> None:
    found = {}
    for label, changes in variants.VARIANTS.items():
        values = {"hidden": (16,), "kept_rows": 50, "learning_rate": 3e-3} | changes
        config = variants.VariantConfig.model_validate(values | {"label": label, "tasks": 3, "steps": 40})
        found[label] = variants.run(config, tmp_path, progress=False)
        assert written(tmp_path, config.name)["mean"] == pytest.approx(np.mean(found[label]["each"]))
        assert label == "as-a-store" or found[label]["each"] != found["as-a-store"]["each"], label
        assert found[label]["mean"] > 20, label
    assert found["own-bias"]["own"] == 16 + 10
    assert found["own-bias-and-scale"]["own"] == 2 * (16 + 10)
    assert found["as-a-store"]["own"] == found["shared-bias"]["own"] == 0
    assert summarise("variants", tmp_path).exists()
    assert "[orthogonal contexts](" in (tmp_path / "table.md").read_text()


def test_hadamard_contexts_are_orthogonal_or_nearly() -> None:
    config = variants.VariantConfig(contexts="hadamard", tasks=20)
    for width, most in ((128, 0.0), (129, 0.3), (785, 0.1)):
        signs = variants._signs(config, width, torch.Generator().manual_seed(0))
        assert bool((signs.abs() == 1).all())
        overlap = signs @ signs.T / width - torch.eye(20)
        assert float(overlap.abs().max()) <= most
