"""The docs' code runs, and their statements about the code are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import report, scale_page
from benchmarks.quality.page import PAGE, quality_page
from superposed_service.cli.commands import app
from superposed_service.cli.settings_loader import configure
from superposed_service.cluster.config import read_config

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "docs" / "experiments"


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)


def test_the_method_page_runs() -> None:
    namespace: dict[str, object] = {}
    found = blocks("docs/method.md", "python")
    assert len(found) >= 6
    for block in found:
        exec(compile(block, "docs/method.md", "exec"), namespace)


def test_the_methods_symbols_are_in_the_files_that_it_names() -> None:
    table = (ROOT / "docs/method.md").read_text().split("## From equation to file")[1].split("\n## ")[0]
    rows = [line.split("|")[2:4] for line in table.splitlines() if line.count("|") == 4][2:]
    assert len(rows) > 15
    for symbols, files in rows:
        places = [path for one in re.findall(r"`(.+?)`", files) for path in (ROOT / "models").rglob(one)]
        text = "".join(path.read_text() for path in places)
        for symbol in re.findall(r"`(.+?)`", symbols):
            assert re.search(rf"\b{re.escape(symbol.rpartition('.')[2])}\b", text), (symbol, files)


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_that_pages_name_are_there_with_their_options() -> None:
    # Decisions and the page about upgrades name commands of earlier releases.
    pages = [one for one in (ROOT / "docs").glob("**/*.md") if "decisions" not in one.parts and one.stem != "upgrade"]
    checked = 0
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages]:
        code = re.findall(r"^```.*?^```|`[^`\n]+`", page.read_text(), re.DOTALL | re.MULTILINE)
        for line in re.findall(r"\bsuperposed ([a-z][^\n`|;&]*)", "\n".join(code)):
            command: Any = typer.main.get_command(app)
            words = shlex.split(line.replace("'", ""), comments=True)
            while words and (inner := getattr(command, "commands", {}).get(words[0])):
                command, words = inner, words[1:]
            assert not hasattr(command, "commands"), f"{page.name}: superposed {line}"
            options = {option for parameter in command.params for option in parameter.opts}
            named = {word.strip("[]").partition("=")[0] for word in words if word.lstrip("[").startswith("-")}
            assert named <= options | {"-", "--help"}, f"{page.name}: superposed {line}"
            checked += 1
    assert checked > 60


def test_settings_that_pages_show_are_read(tmp_path: Path) -> None:
    file = tmp_path / "shown.toml"
    [shown] = blocks("docs/operations.md", "toml")
    file.write_text(shown)
    settings, _ = configure(file)
    assert (settings.host, settings.max_rows, settings.log_format) == ("0.0.0.0", 1024, "json")
    [shown] = blocks("docs/cluster.md", "toml")
    file.write_text(shown)
    assert read_config(file).servers == 3


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(path.relative_to(ROOT)) for path in EXPERIMENTS.glob("*.md"))]
)
def test_tables_of_figures_are_those_of_the_results(page: str) -> None:
    made = {line for table in (ROOT / "docs" / "results").glob("*/table.md") for line in table.read_text().splitlines()}
    shown = [line for line in (ROOT / page).read_text().splitlines() if re.match(r"\| .*\d\.\d", line)]
    assert shown
    for line in shown:
        beside_the_table = re.sub(r"\]\(\.\./results/[\w-]+/", "](", line)  # as its links are there
        assert beside_the_table in made, line


def test_the_benchmarks_page_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert (ROOT / report.PAGE).read_text() == report.render()


def test_the_page_about_many_machines_is_that_of_the_results() -> None:
    assert (ROOT / scale_page.PAGE).read_text() == scale_page.render()


def test_the_page_about_quality_is_that_of_the_results() -> None:
    assert (ROOT / PAGE).read_text() == quality_page(ROOT / "docs" / "results" / "quality")
