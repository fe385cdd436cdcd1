"""The recorded directories of earlier releases."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FIRST", "RECORDED"]


RECORDED = sorted((Path(__file__).parents[1] / "durability" / "recorded").glob("*/*.tar.xz"))
FIRST = [archive for archive in RECORDED if archive.parent.name == "0.1.0"]  # of the first release
