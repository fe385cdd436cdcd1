"""The generated pages of the reference have everything that the program has."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from superposed_service.cli.commands import app
from superposed_service.settings import Settings
from tests.contract.openapi import served
from tools import reference


def first_column(page: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))


def test_settings_page_has_every_setting_that_the_command_shows() -> None:
    shown = CliRunner().invoke(app, ["config", "show", "--json"], catch_exceptions=False)
    assert first_column(reference.settings()) == {f"SUPERPOSED_{name.upper()}" for name in json.loads(shown.stdout)}


def test_settings_page_shows_type_limits_default_and_description(monkeypatch: pytest.MonkeyPatch) -> None:
    class Larger(Settings, use_attribute_docstrings=True):
        fresh_rows: int = Field(3, ge=1, le=9)
        """Number of fresh rows."""

    monkeypatch.setattr(reference, "Settings", Larger)
    row = "| `SUPERPOSED_FRESH_ROWS` | integer (at least 1, at most 9) | `3` | Number of fresh rows. |"
    assert row in reference.settings()


def test_http_page_has_every_route_of_the_application_with_its_fields() -> None:
    page, document = reference.http(), served()
    sections = dict(re.findall(r"^### `(.+?)`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    routes = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(sections) == set(routes)
    for name, operation in routes.items():
        scope = operation.get("x-scope")
        assert (f"Scope `{scope}`." if scope else "No API key is needed.") in sections[name]
        own = {one["name"] for one in operation.get("parameters", ())} - {"Request-Timeout"}
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        assert own | set(body.get("properties", ())) <= first_column(sections[name]), name
        for status in operation["responses"]:
            assert (f"Answer {status}: " in sections[name]) == status.startswith("2")
    for name, schema in document["components"]["schemas"].items():
        [section] = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
        assert set(schema.get("properties", ())) <= first_column(section)


def test_http_page_shows_a_field_within_a_field() -> None:
    assert '| `features[].kind` | `"number"` or `"category"` or `"date"` |' in reference.http()


def test_cli_page_has_every_command_with_its_options() -> None:
    page = reference.cli()

    def check(command: Any, name: str) -> None:
        title = "The command line" if name == "superposed" else f"`{name}`"
        [section] = re.findall(rf"^#+ {title}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in section, (name, parameter.opts)
        for below, inner in getattr(command, "commands", {}).items():
            check(inner, f"{name} {below}")

    check(typer.main.get_command(app), "superposed")
    assert "`superposed cluster drain`" in page


@pytest.mark.parametrize("name", sorted(reference.PRINTED))
def test_reference_command_prints_each_page(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(reference.PRINTED, name, lambda: f"# {name}")
    monkeypatch.setattr(sys, "argv", ["reference", name])
    reference.main()
    assert capsys.readouterr().out == f"# {name}\n"
    assert f"python -m tools.reference {name}" in (reference.OPENAPI.parent / "reference" / f"{name}.md").read_text()
