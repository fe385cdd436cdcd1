"""The README and the guides, done as they stand: every block runs, and prints what the page says that it prints."""

from __future__ import annotations

import codeop
import contextlib
import functools
import gc
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from demo.server_process import Server
from superposed_client import Client
from tests.helpers.forked import Forked

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs/guides").glob("*.md"))]
PAGES = ["README.md", "docs/index.md", "docs/get-started.md", "docs/four-ways.md", "docs/files.md", *GUIDES]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.?\d*")
SKIPPED = ("pip ", "python3 -m venv", ". .venv", "make ", "git ", "docker ")
ADDRESS = re.compile(r"(127\.0\.0\.1|localhost):8000")
# What a page may differ by from what is printed: accuracies move a little with the store's secret.
TOLERANCE = 0.08


class Page:
    """A page that is followed, block by block, from an empty folder on."""

    def __init__(self, path: str, folder: Path, stack: ExitStack, new_store: Callable[[str], Path]) -> None:
        self._path, self._folder, self._stack, self._new_store = path, folder, stack, new_store
        self._servers: dict[str, Server] = {}  # by their directories
        self._address = "127.0.0.1:1"
        self._variables: dict[str, Any] = {"__name__": path}
        self.printed = ""

    def close(self) -> None:
        """Close the clients that the page has left open."""
        for value in self._variables.values():
            if isinstance(value, Client):
                value.close()

    def run(self, language: str, text: str) -> None:
        if language == "sh":
            self.printed = "".join(self._command(line) for line in re.split(r"\n(?! |done)", text) if line.strip())
        elif language == "python":
            code = compile(self._here(text), self._path, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, self._variables)
            self.printed = printed.getvalue()

    def _here(self, text: str) -> str:
        return ADDRESS.sub(self._address, text).replace("Client()", f'Client("http://{self._address}")')

    def _command(self, line: str) -> str:
        line = line.partition("    #")[0].removeprefix(".venv/bin/")
        if line.startswith(SKIPPED):
            return ""
        if line.startswith("superposed serve"):
            directory, _, options = line.removeprefix("superposed serve ").partition(" ")
            self._serve(directory, options)
            return ""
        if line.startswith("superposed "):
            return self._superposed(shlex.split(self._here(line))[1:])
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        line = line.replace("curl -s", "curl --fail-with-body -s")
        bash = ["bash", "-e", "-c", self._here(line)]
        done = subprocess.run(bash, cwd=self._folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{self._path}: {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _superposed(self, arguments: list[str]) -> str:
        printed, errors = self._folder / "printed.log", self._folder / "errors.log"
        printed.unlink(missing_ok=True)
        status = Forked(arguments, printed, errors).wait(120)
        assert status == 0, f"{self._path}: {arguments}\n{printed.read_text()}{errors.read_text()}"
        return printed.read_text()

    def _serve(self, directory: str, options: str) -> None:
        if directory not in self._servers:
            store = self._folder / directory
            if not store.exists():
                shutil.copytree(self._new_store(options), store)
            self._servers[directory] = self._stack.enter_context(Server(store))
        self._address = self._servers[directory].url.removeprefix("http://")


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Untaught stores by their options: to make one takes long where a model of texts is written with it."""

    @functools.cache
    def made(options: str) -> Path:
        store = tmp_path_factory.mktemp("new") / "store"
        assert Forked(["init", str(store), *shlex.split(options)], store.with_suffix(".log")).wait(120) == 0
        return store

    return made


def test_blocks_can_be_pasted_into_python() -> None:
    """The prompt takes a line that is not indented for the end of a loop only after an empty one."""
    for path in PAGES:
        for language, text in BLOCK.findall((ROOT / path).read_text()):
            typed: list[str] = []
            for line in [*text.splitlines(), ""] if language == "python" else []:
                typed.append(line)
                if codeop.compile_command("\n".join(typed), path) is not None:
                    typed.clear()
            assert not typed, f"{path}: {text}"


def same(said: str, printed: str) -> bool:
    """Return True if two texts are the same but for small differences of their numbers."""
    if NUMBER.sub("#", said).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(said), NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= max(TOLERANCE, 0.05 * abs(float(a))) for a, b in pairs)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of pages that keep no client
@pytest.mark.parametrize("path", PAGES)
def test_a_page_does_what_it_says(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_store: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = BLOCK.findall((ROOT / path).read_text())
    assert found
    with ExitStack() as stack:
        page = Page(path, tmp_path, stack, new_store)
        for (language, text), (following, said) in zip(found, [*found[1:], ("", "")], strict=True):
            page.run(language, text)
            if following == "text" and language in {"python", "sh"}:
                assert same(said, page.printed), f"{path} says:\n{said}\nprinted was:\n{page.printed}\nof:\n{text}"
        page.close()
        del page
        gc.collect()  # what the page has not kept is complained of here
