"""The site of docs/ builds strictly, and its pages load nothing from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from tools.reference import PAGES

ROOT = Path(__file__).resolve().parents[1]
# Relations of a `link` that a browser does not load.
NOT_LOADED = {"canonical", "next", "prev", "alternate"}


class Loads(HTMLParser):
    """Collects the addresses that a browser loads for a page, and those of its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", text)
        self.linked: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.linked.add(given.get("href", ""))
        elif tag == "link":
            self.loaded += [] if given.get("rel") in NOT_LOADED else [given.get("href", "")]
        else:
            self.loaded += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_site_loads_nothing_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        text = page.read_text()
        found = Loads(text)
        assert any("stylesheets/main" in one for one in found.loaded), page
        assert not [one for one in found.loaded if re.match(r"(https?:)?//", one)], page
        assert 'class="mermaid"' not in text, page  # the theme fetches what draws these
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize("page", sorted(PAGES))
def test_generated_page_is_in_the_navigation_and_has_no_raw_directive(site: Path, page: str) -> None:
    text = (site / "reference" / f"{page}.html").read_text()
    assert f"reference/{page}.html" in Loads((site / "index.html").read_text()).linked
    assert "<p>:::" not in text
    assert "The site has this page" not in text


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("cli", ["superposed cluster drain", "--sync-followers"]),
        ("errors", ["unknown-task", "IdempotencyInFlight"]),
        ("estimators", ["superposed.sklearn.SuperposedClassifier", "predict_proba", "learn_one"]),
        ("http", ["POST /v1/updates/{sequence}/relabel", "tasks_left"]),
        ("metrics", ["superposed_replication_lag_records", "superposed_crosstalk_ratio"]),
        ("sdk", ["superposed_client.Client.infer", "superposed_client.Task.partial_fit", "RetryPolicy", "abstain"]),
        ("sdk-errors", ["superposed_client.UnknownTask"]),
        ("sdk-results", ["superposed_client.Inference.in_scope", "False where a task abstains"]),
        ("settings", ["SUPERPOSED_QUEUE_DELAY_MS"]),
    ],
)
def test_generated_page_shows_what_the_code_has(site: Path, page: str, shown: list[str]) -> None:
    text = (site / "reference" / f"{page}.html").read_text()
    for one in shown:
        assert one in text


def test_every_decision_and_experiment_is_in_the_navigation(site: Path) -> None:
    linked = Loads((site / "index.html").read_text()).linked
    for folder, least in (("decisions", 40), ("experiments", 8)):
        names = {path.stem for path in (ROOT / "docs" / folder).glob("*.md")} - {"README"}
        assert len(names) > least
        assert {f"{folder}/{name}.html" for name in names} <= linked


def build_small(folder: Path, text: str, nav: list[Any]) -> Path:
    """Build a site of one page, and one of a folder, by the configuration of the real one."""
    (folder / "docs" / "more").mkdir(parents=True)
    (folder / "docs" / "a.md").write_text(f"# A\n\n{text}\n")
    (folder / "docs" / "more" / "b.md").write_text("# B\n")
    folders = {"docs_dir": str(folder / "docs"), "site_dir": str(folder / "site")}
    build(load_config(str(ROOT / "mkdocs.yml"), nav=nav, plugins=[], hooks=["tools/docs_hooks.py"], **folders))
    return folder / "site"


@pytest.mark.parametrize(
    ("nav", "text", "said"),
    [
        (["a.md", "more/*.md"], "[gone](gone.md)", "not found among documentation files"),
        (["a.md", "more/*.md"], "[gone](../gone.txt)", "not found among documentation files"),
        (["a.md", "more/*.md"], "[gone](a.md#gone)", "there is no such anchor"),
        (["a.md", "more/*.md", "gone.md"], "", "not found in the documentation files"),
        (["a.md"], "", 'not included in the "nav"'),
    ],
)
def test_build_with_a_broken_link_or_navigation_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, nav: list[Any], text: str, said: str
) -> None:
    with pytest.raises(Abort):
        build_small(tmp_path, text, nav)
    assert said in caplog.text


def test_link_to_a_file_outside_docs_leads_to_a_copy_in_the_site(tmp_path: Path) -> None:
    link = os.path.relpath(ROOT / "Makefile", tmp_path / "docs")
    site = build_small(tmp_path, f"[make]({link}), [page](more/b.md)", ["a.md", "more/*.md"])
    assert {"repository/Makefile.txt", "more/b.html"} <= Loads((site / "a.html").read_text()).linked
    assert (site / "repository" / "Makefile.txt").read_text() == (ROOT / "Makefile").read_text()


def test_decisions_index_says_of_each_whether_it_holds() -> None:
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(r"^\| \d+ \| \[.+?\]\((.+?)\) \| (\S+?)[:\s]", (folder / "README.md").read_text(), re.M)
    assert sorted(name for name, _ in rows) == sorted(path.name for path in folder.glob("0*.md"))
    for name, today in rows:
        assert today in {"Holds", "In", "Gone"}, name
        first = (folder / name).read_text().splitlines()[0]
        assert (": gone" in first.lower() or ". gone" in first.lower()) == (today == "Gone"), name
