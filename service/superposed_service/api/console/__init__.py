"""The web page: static files that are a client of the public API like any other.

`index.html` and plain ES modules under `js/`; `vendor/` holds a chart library as it was released, with its
licence. Nothing is built: what is here is what browsers get.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

__all__ = ["ConsoleFile", "console_files"]

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class ConsoleFile:
    """A file as it is served.

    Args:
        content: Its bytes.
        compressed: The same, by gzip.
        media_type: What it is.
        versioned: Whether another content would have another name.
    """

    content: bytes
    compressed: bytes
    media_type: str
    versioned: bool

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


@cache
def console_files() -> dict[str, ConsoleFile]:
    """Return every file of the page by its path, read once."""
    return dict(_read(files(__name__), ""))


def _read(folder: Traversable, prefix: str) -> list[tuple[str, ConsoleFile]]:
    found: list[tuple[str, ConsoleFile]] = []
    for entry in folder.iterdir():
        path, ending = f"{prefix}{entry.name}", entry.name.rpartition(".")[2]
        if entry.is_dir():
            found += _read(entry, f"{path}/")
        elif ending in _MEDIA_TYPES:
            content = entry.read_bytes()
            compressed = gzip.compress(content, mtime=0)
            versioned = path.startswith("vendor/")
            found.append((path, ConsoleFile(content, compressed, _MEDIA_TYPES[ending], versioned)))
    return found
