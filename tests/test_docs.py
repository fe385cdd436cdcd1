"""The docs' code runs, and their statements about the code are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import report, scale_page
from benchmarks.quality.page import PAGE, quality_page

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
