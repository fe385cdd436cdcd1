"""Presets: what a new store is made with, by flag, environment and configuration, and who says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from demo.server_process import Server
from superposed.config import PRESET_ENCODERS, PRESETS, MLPConfig, StoreConfig
from superposed.errors import ConfigError
from superposed.store.store import WeightStore
from superposed_client import Client
from superposed_service.cli.commands import app
from superposed_service.storage import DataDirectory
from tests.conftest import serving

RUN = CliRunner()


def made(path: Path) -> StoreConfig:
    with DataDirectory.existing(path) as opened:
        [snapshot] = opened.snapshots.list()
        return WeightStore.from_bytes(opened.snapshots.read(snapshot)).config


# The sentence encoder takes half a minute to be made ready: the guides have it, as `--preset texts` makes it.
OTHER_ENCODERS = {"texts": {"texts": "hash:384"}}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_init_preset_makes_its_settings(preset: str, tmp_path: Path) -> None:
    others = OTHER_ENCODERS.get(preset, {})
    flags = [word for name, spec in others.items() for word in ("--encoder", f"{name}={spec}")]
    result = RUN.invoke(app, ["init", str(tmp_path / "store"), "--preset", preset, *flags])
    assert result.exit_code == 0, result.output
    config = made(tmp_path / "store")
    assert config.replace(encoders={}) == StoreConfig.of_preset(preset)
    assert {name: one.spec for name, one in config.encoders.items()} == PRESET_ENCODERS.get(preset, {}) | others
    assert config.preset == preset


def test_init_flags_change_single_settings_of_the_preset(tmp_path: Path) -> None:
    flags = [
        "--preset",
        "paper",
        "--hidden",
        "32",
        "--set",
        "rehearsal.rows_per_task=50",
        "--set",
        "optimizer.steps=2",
        "--expansion",
        "3",
    ]
    assert RUN.invoke(app, ["init", str(tmp_path / "store"), *flags]).exit_code == 0
    config = made(tmp_path / "store")
    assert isinstance(config.network, MLPConfig)
    assert (config.network.hidden, config.network.activation, config.network.expansion) == ((32,), "relu", 3)
    assert (config.rehearsal.rows_per_task, config.optimizer.steps) == (50, 2)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("rmsprop", 1e-4)


def test_init_takes_the_preset_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOSED_PRESET", "users")
    assert RUN.invoke(app, ["init", str(tmp_path / "one")]).exit_code == 0
    assert made(tmp_path / "one").preset == "users"
    shown = RUN.invoke(app, ["config", "show", "--json"])
    assert '"value": "users"' in shown.output
    monkeypatch.setenv("SUPERPOSED_PRESET", "none")
    assert RUN.invoke(app, ["init", str(tmp_path / "two")]).exit_code != 0


def test_unknown_preset_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match="general, users, texts, images, paper"):
        StoreConfig.of_preset("best")


def test_rotations_of_any_preset_have_no_expansion() -> None:
    config = StoreConfig.of_preset("general", {"family": "rotation"})
    assert config.network.expansion == 1
    with pytest.raises(ConfigError, match="no expansion"):
        WeightStore(StoreConfig.of_preset("general", {"family": "rotation", "network": {"expansion": 2}}))


def test_other_networks_leave_the_presets_network_out() -> None:
    config = StoreConfig.of_preset("users", {"network": {"kind": "convnet", "input_shape": (1, 8, 8)}})
    assert (config.network.kind, config.network.expansion) == ("convnet", 1)


def test_saved_configuration_of_an_earlier_release_keeps_what_it_had() -> None:
    saved = StoreConfig.of_preset("paper").model_dump(mode="json")
    for name, fields in (
        ("network", ["expansion"]),
        ("optimizer", ["steps"]),
        ("rehearsal", ["own_ratio", "least_rows"]),
    ):
        for field in fields:
            del saved[name][field]
    del saved["preset"]
    config = StoreConfig.saved(saved)
    assert config.preset is None
    assert (config.network.expansion, config.optimizer.steps) == (1, 1)
    assert (config.rehearsal.own_ratio, config.rehearsal.least_rows) == (0.0, 0)


def test_serve_makes_the_preset_and_says_so_and_where_the_store_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERPOSED_PRESET", "images")
    with Server(tmp_path / "store") as server, server.client() as client:
        store = client.store()
        assert (store.preset, store.network["inputs"], store.network["expansion"]) == ("images", 784, 1)
        assert store.encoders["images"].spec == "pixels:1x28x28"
    log = (tmp_path / "store.log").read_text()
    assert "preset images: phase contexts, mlp with" in log
    assert "keeps its preset" not in log
    monkeypatch.setenv("SUPERPOSED_PRESET", "users")
    with Server(tmp_path / "store") as server, server.client() as client:
        assert client.store().preset == "images"
    assert "a store keeps its preset" in (tmp_path / "store.log").read_text()


def test_update_without_steps_takes_the_stores(tmp_path: Path) -> None:
    """Three steps in one record are what one record of `steps: 3` is."""
    shape = ["--inputs", "4", "--outputs", "3", "--seed", "1"]
    answers = []
    for name, flags, steps in (("one", [], {}), ("two", ["--set", "optimizer.steps=1"], {"steps": 3})):
        RUN.invoke(app, ["init", str(tmp_path / name), *shape, *flags])
        with serving(tmp_path / name) as http, Client(str(http.base_url)) as client:
            client.register_task("a", outputs=3, inputs=4)
            update = {"context": "a", "inputs": [[0, 1, 2, 3], [3, 2, 1, 0]], "targets": [1, 2]}
            assert http.post("/v1/update", json=update | steps).status_code == 200
            assert client.get_task("a").rows_kept == 2
            answers.append(client.infer("a", [[1, 1, 2, 3]], fields=["logits"]).logits)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--network", "convnet", "--set", "network.normalisation=none"], "normalisation"),
        (["--set", "network.output_layer=3"], "output_layer"),
        (["--set", "optimizer.stepz=3"], "stepz"),
        (["--set", "steps"], "--set"),
        (["--set", "a.b.c=1"], "--set"),
        (["--family", "phase", "--set", "family.x=1"], "--set"),
        (["--network", "resnet18", "--inputs", "64"], "inputs"),
    ],
)
def test_init_refuses_settings_that_the_network_does_not_have(flags: list[str], named: str, tmp_path: Path) -> None:
    result = RUN.invoke(app, ["init", str(tmp_path / "store"), *flags])
    assert result.exit_code != 0
    assert named in str(result.exception)
    assert not (tmp_path / "store").exists()


def test_init_names_encoders_and_widens_the_network_for_them(tmp_path: Path) -> None:
    flags = ["--encoder", "words=hash:2000", "--encoder", "pictures=pixels:1x8x8"]
    result = RUN.invoke(app, ["init", str(tmp_path / "store"), *flags])
    assert result.exit_code == 0, result.output
    config = made(tmp_path / "store")
    assert {name: (one.kind, one.width) for name, one in config.encoders.items()} == {
        "words": ("texts", 2000),
        "pictures": ("images", 64),
    }
    assert config.network.inputs == 2000


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--encoder", "hash"], "--encoder"),
        (["--encoder", "a=hash:0"], "width"),
        (["--encoder", "a=nothing"], "no such encoder"),
        (["--encoder", "a/b=hash"], "--encoder"),
        (["--encoder", "a=hash", "--encoder", "a=hash:9"], "--encoder"),
        (["--encoder", "a=hash:100", "--inputs", "99"], "rows of 100 numbers"),
        (["--preset", "images", "--network", "convnet", "--input-shape", "2,8,8"], "pixels"),
    ],
)
def test_init_refuses_encoders_that_are_none_and_leaves_nothing(flags: list[str], named: str, tmp_path: Path) -> None:
    result = RUN.invoke(app, ["init", str(tmp_path / "store"), *flags])
    assert result.exit_code != 0
    assert named in str(result.exception)
    with DataDirectory(tmp_path / "store") as opened:
        assert opened.untouched


@pytest.mark.parametrize("name", ["{folder}/precious", "../precious"])
def test_an_encoders_name_is_no_path(name: str, tmp_path: Path) -> None:
    """It would be a folder that an export replaces."""
    kept = tmp_path / "precious" / "data.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    spec = f"{name.format(folder=tmp_path)}=sentence-transformers:all-MiniLM-L6-v2"
    assert RUN.invoke(app, ["init", str(tmp_path / "store"), "--encoder", spec]).exit_code != 0
    assert kept.read_text() == "mine"
