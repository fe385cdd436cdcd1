from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.anchored import EWC, SynapticIntelligence
from experiments.datasets import DataUnavailable, idx_dataset
from experiments.ensemble import BatchEnsemble
from experiments.learners import Learner, Separate, Standard, Superposed
from experiments.permuted import PermutedConfig, run
from experiments.plots import plot_permuted
from experiments.rehearsed import Rehearsed, StandardRehearsed
from superposed import MLPConfig, OptimizerConfig
from superposed.config import RehearsalConfig

NETWORK = MLPConfig(expansion=1, activation="relu", inputs=10, hidden=(32, 32), outputs=3, normalisation="none")
FAST = OptimizerConfig(name="rmsprop", learning_rate=1e-3)


def task(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(number)
    x = rng.normal(size=(600, 10)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy((x @ rng.normal(size=(10, 3))).argmax(1))


def teach(learner: Learner, number: int, steps: int = 250) -> None:
    x, y = task(number)
    learner.begin(number)
    for step in range(steps):
        rows = slice(step * 32 % 600, step * 32 % 600 + 32)
        learner.step(number, x[rows], y[rows])
    learner.end(number, x, y)


def accuracy(learner: Learner, number: int) -> float:
    x, y = task(number)
    return float((learner.logits(number, x).argmax(1) == y).double().mean())


def learners() -> dict[str, Learner]:
    return {
        "superposed": Superposed(NETWORK, FAST, "phase", 0),
        "standard": Standard(NETWORK, FAST, 0),
        "ewc": EWC(NETWORK, FAST, 0, strength=1000.0),
        "si": SynapticIntelligence(NETWORK, FAST, 0, strength=10.0),
        "separate": Separate([(10, 3)] * 2, 1600, [250] * 2, 1e-2, 0),
        "rehearsed": Rehearsed(NETWORK, FAST, "phase", RehearsalConfig(rows_per_task=200), 0),
        "batch-ensemble": BatchEnsemble(NETWORK, FAST, 2, 1600, 0),
    }


def test_every_learner_learns_and_all_but_the_standard_one_remember_more() -> None:
    kept = {}
    for name, learner in learners().items():
        teach(learner, 0)
        assert accuracy(learner, 0) > 0.85, name
        teach(learner, 1)
        kept[name] = accuracy(learner, 0)
    assert kept["standard"] < 0.6
    for name in ("superposed", "separate", "rehearsed", "batch-ensemble"):
        assert kept[name] > 0.8, kept
    for name in ("ewc", "si"):
        assert kept[name] > kept["standard"] + 0.05, kept


@pytest.mark.parametrize("name", list(learners()))
def test_a_learners_state_brings_it_back(name: str) -> None:
    learner, fresh = learners()[name], learners()[name]
    teach(learner, 0, steps=40)
    fresh.load_state({key: value.clone() for key, value in learner.state().items()})
    torch.testing.assert_close(fresh.logits(0, task(0)[0]), learner.logits(0, task(0)[0]), rtol=0, atol=0)
    for each in (learner, fresh):
        teach(each, 1, steps=10)
    torch.testing.assert_close(fresh.logits(0, task(0)[0]), learner.logits(0, task(0)[0]), rtol=0, atol=0)


def test_a_standard_network_remembers_what_it_rehearses() -> None:
    kept = []
    for rows in (1, 200):
        learner = StandardRehearsed(NETWORK, FAST, RehearsalConfig(rows_per_task=rows), 0)
        # The same rows under turned classes: what one network without contexts cannot answer both of.
        teach(learner, 0)
        teach(learner, 1)
        kept.append(accuracy(learner, 0))
    assert kept[1] > kept[0] + 0.05


def test_batch_ensemble_learns_its_weights_with_the_first_task_only() -> None:
    learner = BatchEnsemble(NETWORK, FAST, 2, 1600, 0)
    assert learner.weights <= 1600
    teach(learner, 0, steps=5)
    shared = {name: value.clone() for name, value in learner.state().items() if name.endswith("weight")}
    answers = learner.logits(0, task(0)[0])
    teach(learner, 1, steps=5)
    assert all(torch.equal(learner.state()[name], value) for name, value in shared.items())
    assert torch.equal(learner.logits(0, task(0)[0]), answers)


def test_separate_networks_share_the_budget() -> None:
    learner = Separate([(10, 3), (4, 2)], 2000, [5, 5], 1e-2, 0)
    for number in range(2):
        learner.begin(number)
    assert 0.9 * 2000 < learner.weights <= 2000


def test_the_penalty_is_the_sum_over_tasks_of_squared_distances() -> None:
    learner = EWC(NETWORK, FAST, 0, strength=3.0)
    anchors = []
    for number in range(2):
        before = {name: value.clone() for name, value in learner._importance.items()}
        teach(learner, number, steps=20)
        importance = {name: learner._importance[name] - before[name] for name in before}
        weights = {name: value.detach().clone() for name, value in learner._parameters.items()}
        anchors.append((importance, weights))
    teach_more = task(2)
    learner.step(2, teach_more[0][:32], teach_more[1][:32])
    for name, value in learner._parameters.items():
        expected = sum(3.0 * importance[name] * (value.detach() - weights[name]) for importance, weights in anchors)
        torch.testing.assert_close(learner.penalty_gradient(name), expected, rtol=1e-3, atol=1e-6)
        assert float(learner._importance[name].max()) > 0


class TestPermutedMnist:
    @pytest.fixture(autouse=True)
    def _needs_mnist(self) -> None:
        try:
            idx_dataset("mnist")
        except DataUnavailable as error:
            pytest.skip(error.message)

    def config(self, **changes: object) -> PermutedConfig:
        return PermutedConfig(units=48, steps=60, tasks=2).replace(**changes)

    def test_a_run_writes_what_it_measured(self, tmp_path: Path) -> None:
        result = run(self.config(), tmp_path, progress=False)
        assert result == json.loads((tmp_path / "binary-48-steps60.json").read_text())
        assert len(result["task_1"]) == len(result["mean"]) == len(result["each"]) == 2
        assert result["task_1"][0] > 60
        assert result["mean"][1] == pytest.approx(np.mean(result["each"]))
        assert result["weights"] == 784 * 48 + 48 * 48 * 2 + 480 + 48 * 3 + 10
        assert {"processor", "torch", "threads"} <= set(result["machine"])
        picture = plot_permuted(tmp_path)
        assert picture.read_bytes()[:4] == b"\x89PNG"
        assert "binary-48-steps60" in (tmp_path / "table.md").read_text()

    def test_a_rehearsed_run_says_what_it_keeps(self, tmp_path: Path) -> None:
        config = self.config(
            method="rehearsed", family="phase", kept_rows=50, consolidation=5, evaluate_every=2, tasks=3
        )
        result = run(config, tmp_path, progress=False)
        assert result["mean"][0] is None
        assert result["consolidated"]["mean"] > 30
        assert result["bytes"]["disk"] - result["bytes"]["weights"] == 3 * (50 * (784 + 17) + 16 * 784)
        assert result["bytes"]["resident"] == result["bytes"]["weights"] + result["bytes"]["contexts"]
        assert plot_permuted(tmp_path).exists()

    @pytest.mark.parametrize(
        ("method", "changes"),
        [
            ("superposed", {}),
            ("synaptic-intelligence", {}),
            ("rehearsed", {"family": "phase", "kept_rows": 50, "consolidation": 5}),
            ("standard-rehearsed", {"kept_rows": 50}),
        ],
    )
    def test_a_run_that_was_cut_off_ends_the_same(
        self, tmp_path: Path, method: str, changes: dict[str, object]
    ) -> None:
        config = self.config(method=method, tasks=3, steps=25, **changes)
        whole = run(config, tmp_path / "whole", progress=False)
        run(config.replace(tasks=2), tmp_path / "parts", progress=False)
        resumed = run(config, tmp_path / "parts", progress=False)
        assert resumed["each"] == whole["each"]
        assert resumed["mean"] == whole["mean"]
        assert resumed.get("consolidated") == whole.get("consolidated")

    def test_another_configuration_does_not_resume_it(self, tmp_path: Path) -> None:
        run(self.config(steps=10), tmp_path, progress=False)
        other = run(self.config(steps=20), tmp_path, progress=False)
        assert other["config"]["steps"] == 20
        assert other["each"] == run(self.config(steps=20), tmp_path / "b", progress=False)["each"]
