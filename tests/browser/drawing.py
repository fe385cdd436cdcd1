"""Draws a real picture with the mouse, stroke by stroke."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from playwright.sync_api import Page

# The pen is about two of 28 pixels thick: strokes end so much before the ink does.
_PEN = 2 / 28


def draw(page: Page, picture: NDArray[Any], side: int) -> None:
    """Draws a picture's bright pixels on the pad, line by line.

    Args:
        page: The playground.
        picture: Brightness, (side × side,), of any range.
        side: Pixels in a row.
    """
    box = page.locator(".pad canvas").bounding_box()
    assert box is not None
    bright = picture.reshape(side, side) > picture.max() / 2
    inset = _PEN / 2 * side
    for y in range(side):
        for first, last in _runs(bright[y].tolist()):
            middle = (first + last) / 2
            left, right = min(first + inset, middle), max(last - inset, middle)
            at = [
                (box["x"] + x / side * box["width"], box["y"] + (y + 0.5) / side * box["height"]) for x in (left, right)
            ]
            page.mouse.move(*at[0])
            page.mouse.down()
            page.mouse.move(*at[1])
            page.mouse.up()


def _runs(row: list[bool]) -> list[tuple[int, int]]:
    """Return the begin and the end of each run of bright pixels."""
    found: list[tuple[int, int]] = []
    start: int | None = None
    for place, bright in enumerate([*row, False]):
        if bright and start is None:
            start = place
        elif not bright and start is not None:
            found.append((start, place))
            start = None
    return found
