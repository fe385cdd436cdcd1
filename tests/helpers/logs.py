"""Log lines as a server writes them."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from superposed_service.observability.logs import logging_config
from superposed_service.settings import Settings

__all__ = ["Captured", "captured"]


class Captured:
    """Log lines as a server would write them to standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self._stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", self._stream)
        logging.config.dictConfig(logging_config(Settings(**settings)))  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if line["event"] == name]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Captured]]:
    names = ("", "superposed", "uvicorn", "uvicorn.error")
    before = [(one.handlers[:], one.level) for one in map(logging.getLogger, names)]
    yield lambda **settings: Captured(monkeypatch, **settings)
    for name, (handlers, level) in zip(names, before, strict=True):
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)
