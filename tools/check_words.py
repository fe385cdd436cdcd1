"""Reject wording that readers have to decode, in docstrings, comments, pages, and shown texts.

The rules are those of docs/style.md. Run by `make lint`; prints each finding and ends with status 1.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("models", "service", "clients", "experiments", "benchmarks", "tools")
# Their docstrings are checked too; their names and strings play users and attackers.
TESTS = "tests"
# At the start of a docstring.
QUESTION = re.compile(r"(what|whatever|who|whose|whom|whoever|how|where|wherever|whether)\b", re.IGNORECASE)
# Anywhere.
WORDS = re.compile(
    r"\b(whoever|nobody|somebody|anybody|strangers?|likewise|so many|so much|of then|as such|what came"
    r"|in vain)\b",
    re.IGNORECASE,
)
# In a text that the program shows: help, settings, errors, logs, metrics.
SHOWN = re.compile(r"\b(who|whose|whom)\b", re.IGNORECASE)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def in_lines(path: Path) -> Iterator[str]:
    """Yield `file:line: text` for each line with a word of the list."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if WORDS.search(line):
            yield f"{path}:{number}: {line.strip()}"


def in_code(path: Path) -> Iterator[str]:
    """Yield `file:line: text` for question words that begin docstrings, and in texts shown outside tests."""
    tree = ast.parse(path.read_text())
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            line = node.body[0].lineno
            docstrings.add(line)
            if QUESTION.match(text):
                yield f"{path}:{line}: {text.splitlines()[0]}"
    for node in [] if path.parts[0] == TESTS else ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in docstrings:
            yield from (f"{path}:{node.lineno}: {node.value}" for _ in SHOWN.findall(node.value)[:1])


def main() -> None:
    """Check the Python files of the folders, and the pages."""
    code = [path for folder in FOLDERS for path in sorted(Path(folder).rglob("*.py"))]
    code = [path for path in code if path.name != Path(__file__).name]
    pages = [path for path in sorted(Path("docs").rglob("*.md")) if path.name != "style.md"]
    tests = sorted(Path(TESTS).rglob("*.py"))
    found = [one for path in [*code, *tests] for one in in_code(path)]
    found += [one for path in [*code, *pages, Path("README.md")] for one in in_lines(path)]
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
