"""The recorded directories of earlier releases."""

from __future__ import annotations

from pathlib import Path

__all__ = ["RECORDED"]


RECORDED = sorted((Path(__file__).parents[1] / "durability" / "recorded").glob("*/*.tar.xz"))
