"""The docs' code runs, and their statements about the code are true."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks import report
from benchmarks.quality.page import PAGE, quality_page
from demo.server_process import Server
from superposed_service.cli.commands import app

ROOT = Path(__file__).resolve().parents[1]
RUNNER = CliRunner()
EXPERIMENTS = ROOT / "docs" / "experiments"


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)


def test_the_method_page_runs() -> None:
    namespace: dict[str, object] = {}
    found = blocks("docs/method.md", "python")
    assert len(found) >= 6
    for block in found:
        exec(compile(block, "docs/method.md", "exec"), namespace)


def test_the_readme_runs(server: Server) -> None:
    [block] = blocks("README.md", "python")
    assert "http://127.0.0.1:8000" in block
    exec(compile(block.replace("http://127.0.0.1:8000", server.url), "README.md", "exec"), {})


def test_the_readmes_curl_lines_teach_what_they_ask(tmp_path: Path) -> None:
    """On a store made as the README makes one, from the lines as they stand."""
    lines = (ROOT / "README.md").read_text().splitlines()
    [made] = [line for line in lines if line.startswith(".venv/bin/superposed init my-store ")]
    arguments = shlex.split(made.partition(" my-store ")[2])
    RUNNER.invoke(app, ["init", str(tmp_path / "my-store"), *arguments], catch_exceptions=False)
    asked = [line for line in lines if line.startswith("curl ")]
    assert len(asked) == 3
    with Server(tmp_path / "my-store") as server:
        for line in asked:
            _, _, url, _, _, _, body = shlex.split(line)
            answer = httpx.post(f"{server.url}/{url.partition('/')[2]}", content=body)
            assert answer.is_success, answer.text
    assert answer.json()["labels"] == [0, 1, 1, 0]


def test_the_four_ways_to_a_first_task(server: Server, tmp_path: Path) -> None:
    notebook, estimator = blocks("docs/four-ways.md", "python")
    with server.client() as client:
        namespace: dict[str, Any] = {"client": client}
        exec(compile(notebook.replace("Client()", "client"), "docs/four-ways.md", "exec"), namespace)
        assert namespace["wine"].score(namespace["data"].data, namespace["data"].target) > 0.95
        client.delete_task("wine")
    exec(compile(estimator, "docs/four-ways.md", "exec"), {})
    commands = [block for block in blocks("docs/four-ways.md", "sh") if "wine.csv" in block or "curl" in block]
    assert len(commands) == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in commands:
        lines = [line for line in block.splitlines() if not line.startswith(("pip", "superposed serve"))]
        script = "\n".join(lines).replace("http://localhost:8000", server.url).replace("localhost:8000", server.url)
        bash = ["bash", "-e", "-c", script]
        done = subprocess.run(bash, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert '"labels":["plus","minus"]' in done.stdout or "rows taught to wine" in done.stdout
    assert (tmp_path / "answers.csv").read_text().count("\n") == 179


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


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(path.relative_to(ROOT)) for path in EXPERIMENTS.glob("*.md"))]
)
def test_tables_of_figures_are_those_of_the_results(page: str) -> None:
    made = {line for table in (ROOT / "docs" / "results").glob("*/table.md") for line in table.read_text().splitlines()}
    shown = [line for line in (ROOT / page).read_text().splitlines() if re.match(r"\| .*\d\.\d", line)]
    assert shown
    for line in shown:
        assert line in made, line


def test_the_benchmarks_page_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert (ROOT / report.PAGE).read_text() == report.render()


def test_the_page_about_quality_is_that_of_the_results() -> None:
    assert (ROOT / PAGE).read_text() == quality_page(ROOT / "docs" / "results" / "quality")
