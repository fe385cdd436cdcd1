"""Reject wording that readers have to decode, in docstrings and in every text that the program shows.

The list is that of docs/style.md. Run by `make lint`; prints each finding and ends with status 1.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("models", "service", "clients", "experiments", "benchmarks")
# At the start of a docstring.
QUESTION = re.compile(r"(what|whatever|who|whose|whom|whoever|how|where|wherever|whether)\b", re.IGNORECASE)
# Anywhere in a text that the program shows: help, settings, errors, logs, metrics.
WORDS = re.compile(
    r"\b(who|whose|whom|whoever|nobody|somebody|anybody|strangers?|likewise|so many|so much|of then|as such|"
    r"what came|in vain)\b",
    re.IGNORECASE,
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def findings(path: Path) -> Iterator[str]:
    """Yield `file:line: text` for each docstring or text with a word of the list."""
    tree = ast.parse(path.read_text())
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            line = node.body[0].lineno
            docstrings.add(line)
            if QUESTION.match(text):
                yield f"{path}:{line}: {text.splitlines()[0]}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in docstrings:
            yield from (f"{path}:{node.lineno}: {node.value}" for _ in WORDS.findall(node.value)[:1])


def main() -> None:
    """Check all Python files of the folders."""
    paths = [path for folder in FOLDERS for path in sorted(Path(folder).rglob("*.py"))]
    sys.exit("\n".join(one for path in paths for one in findings(path)) or None)


if __name__ == "__main__":
    main()
