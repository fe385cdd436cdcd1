"""Settings from a file, the environment and flags, and where each came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from superposed.errors import ConfigError
from superposed_service.cli.commands import app as command_line
from superposed_service.cli.server_process import check_addresses, joined
from superposed_service.cli.settings_loader import RENAMED, configure
from superposed_service.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "superposed.toml"
    path.write_text('max_rows = 11\nmax_steps = 12\nbatch_wait_ms = 1.5\ndevice = "cpu"\n')
    return path


def test_flags_over_environment_over_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOSED_MAX_STEPS", "22")
    monkeypatch.setenv("SUPERPOSED_DEVICE", "cuda")
    monkeypatch.setenv("SUPERPOSED_API_KEY", "the client's, no setting")
    settings, origins = configure(file, device="auto", port=None)
    assert (settings.max_rows, settings.max_steps, settings.batch_wait_ms) == (11, 22, 1.5)
    assert (settings.device, settings.port) == ("auto", 8000)
    assert origins["max_rows"] == f"file {file}"
    assert origins["max_steps"] == "environment SUPERPOSED_MAX_STEPS"
    assert origins["device"] == "flag"
    assert origins["port"] == "default"
    assert set(origins) == set(Settings.model_fields)


def test_the_file_may_be_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOSED_CONFIG", str(file))
    assert configure()[0].max_rows == 11


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_row = 1\nnothing = 2", "no such setting: max_row, nothing; expected perhaps max_rows"),
        ("zzzzzz = 1", "no such setting: zzzzzz; expected `superposed config show`"),
        ("max_rows = 0", r"setting max_rows \(file .*\): .*greater than or equal to 1; received 0"),
        ("max_rows = ", "not a TOML file"),
        ("[server]\nport = 1", "no such setting: server"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        configure(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        configure(tmp_path / "nothing.toml")


def test_config_show(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOSED_MAX_STEPS", "22")
    shown = CliRunner().invoke(command_line, ["config", "show", "--config", str(file), "--json"])
    assert shown.exit_code == 0, shown.output
    values = json.loads(shown.output)
    assert list(values) == list(Settings.model_fields)
    assert values["max_rows"] == {"value": 11, "from": f"file {file}"}
    assert values["max_steps"] == {"value": 22, "from": "environment SUPERPOSED_MAX_STEPS"}
    table = CliRunner().invoke(command_line, ["config", "show"], env={"COLUMNS": "200"}).output
    for name, field in Settings.model_fields.items():
        assert name in table
        assert field.description


class TestAddresses:
    @pytest.mark.parametrize(
        "address", ["0.0.0.0:18533", "[::]:18533", ":::18533", ":18533", "example.org:1", "unix:/tmp/x"]
    )
    def test_nobody_else_reaches_grpc_without_api_keys(self, address: str) -> None:
        settings = Settings(grpc_address=address)
        with pytest.raises(ConfigError, match="loopback") as refused:
            check_addresses(settings, allowed=False, has_keys=False)
        assert refused.value.received == address
        check_addresses(settings, allowed=True, has_keys=False)
        check_addresses(settings, allowed=False, has_keys=True)

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_loopback_needs_none(self, host: str) -> None:
        check_addresses(Settings(host=host, grpc_address=joined(host, 18533)), allowed=False, has_keys=False)

    def test_serve_looks_at_both(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SUPERPOSED_GRPC_ADDRESS", "0.0.0.0:18533")
        monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
        result = CliRunner().invoke(command_line, ["serve", str(tmp_path / "store")])
        assert isinstance(result.exception, ConfigError)
        assert result.exception.received == "0.0.0.0:18533"


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERPOSED_MAX_ROW", "10")
    with pytest.raises(ConfigError, match="the environment: no such setting: SUPERPOSED_MAX_ROW") as refused:
        configure(None)
    assert refused.value.expected == "perhaps SUPERPOSED_MAX_ROWS"
    monkeypatch.delenv("SUPERPOSED_MAX_ROW")
    monkeypatch.setenv("SUPERPOSED_API_KEY", "sp-x")  # the client's own
    configure(None)


@pytest.mark.parametrize(("old", "new"), sorted(RENAMED.items()))
def test_an_old_setting_is_refused_with_its_new_name(
    old: str, new: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert new is None or new in Settings.model_fields
    (file := tmp_path / "superposed.toml").write_text(f"{old} = 1\n")
    with pytest.raises(ConfigError, match=old) as refused:
        configure(file)
    assert new is None or refused.value.expected == new
    monkeypatch.setenv(f"SUPERPOSED_{old.upper()}", "1")
    with pytest.raises(ConfigError, match=f"SUPERPOSED_{old.upper()} was") as refused:
        configure(None)
    assert new is None or refused.value.expected == f"SUPERPOSED_{new.upper()}"


def test_a_module_needs_the_shape_of_a_row(tmp_path: Path) -> None:
    found = CliRunner().invoke(command_line, ["init", str(tmp_path / "store"), "--module", "package:factory"])
    assert isinstance(found.exception, ConfigError)
    assert "--input-shape, for example 1,28,28" in str(found.exception)
    assert not (tmp_path / "store" / "journal.db").exists()
