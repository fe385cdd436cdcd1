"""Hooks of `mkdocs build`: the generated reference, lists of pages by pattern, and files outside docs/.

The pages in `docs/reference/` say on GitHub how to print them; the site has what `tools/reference.py` generates. A link
that leaves docs/ leads to the file on GitHub, and in the site to a copy of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.reference import PAGES

_LINK = re.compile(r"(?<=\]\()\.\./[^)#\s]+")


def on_config(config: MkDocsConfig) -> None:
    """Put the pages that a pattern of the navigation matches in its place."""
    config.nav = _expanded(config.nav, Path(config.docs_dir))


def _expanded(entry: Any, docs: Path) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(below, docs) for title, below in entry.items()}
    if not isinstance(entry, list):
        return entry
    found: list[Any] = []
    for one in entry:
        pattern = isinstance(one, str) and "*" in one
        found += [str(path.relative_to(docs)) for path in sorted(docs.glob(one))] if pattern else [_expanded(one, docs)]
    return found


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a generated page, or a page whose links to files outside docs/ lead to copies in the site."""
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder == "reference" and name in PAGES:
        return PAGES[name]()
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)

    def copied(link: re.Match[str]) -> str:
        target = (docs / folder / link[0]).resolve()
        if docs in target.parents or root not in target.parents or not target.is_file():
            return link[0]  # a page or file of docs/; or one that is missing, which fails the build
        copy = f"repository/{target.relative_to(root).as_posix()}.txt"
        if files.get_file_from_path(copy) is None:
            files.append(File.generated(config, copy, abs_src_path=str(target)))
        return os.path.relpath(copy, folder or ".")

    return _LINK.sub(copied, markdown)
