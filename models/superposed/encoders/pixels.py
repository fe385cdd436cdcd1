"""Images as rows of pixels: PNG and JPEG, decoded by Pillow, fitted to one shape."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from superposed.config import OriginalKind
from superposed.errors import ConfigError, EncoderUnavailable, InputError

if TYPE_CHECKING:
    from PIL import Image

_SHAPE = re.compile(r"([13])x([1-9]\d{0,3})x([1-9]\d{0,3})", re.ASCII)
_FORMATS = ("PNG", "JPEG")
# Decoding takes time and memory by the pixel, whatever the file's size.
MOST_PIXELS = 2**24
_BLACK = (0, 0, 0, 255)
# First bytes of PNG and JPEG files.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8")
# Of a PNG's text and colour profile, unpacked: a small file may hold much, and none of it is used.
_MOST_TEXT_BYTES = 2**18


@dataclass(frozen=True)
class PixelEncoder:
    """Images as rows of bytes (channels, height, width), flattened in that order.

    An image of other proportions is scaled to fit, and has black bars. One channel is grey, three are RGB.
    """

    shape: tuple[int, int, int]
    kind: ClassVar[OriginalKind] = "images"

    @classmethod
    def of(cls, argument: str) -> Self:
        """Return the encoder of a shape like 1x28x28; raise `ConfigError`, or `EncoderUnavailable` without Pillow."""
        found = _SHAPE.fullmatch(argument)
        if found is None:
            raise ConfigError("pixels: not a shape", expected="for example 1x28x28 or 3x32x32", received=argument)
        _pillow()
        channels, height, width = map(int, found.groups())
        return cls((channels, height, width))

    @property
    def width(self) -> int:
        """Numbers of a row."""
        channels, height, width = self.shape
        return channels * height * width

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that encode alike."""
        return "pixels-1:" + "x".join(map(str, self.shape))

    def encode(self, items: Sequence[Any], places: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Return rows (B, width) uint8 of B files; errors call each by its place, or by that in `places`.

        Raise `InputError` where one is no PNG or JPEG image, is damaged, or has too many pixels.
        """
        rows = np.empty((len(items), self.width), dtype=np.uint8)
        for row, item, place in zip(rows, items, places or range(len(items)), strict=True):
            row[:] = self._row(item, place)
        return rows

    def _row(self, item: bytes, place: int) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        channels, height, width = self.shape
        mode = "L" if channels == 1 else "RGB"
        with _opened(item, place) as image:
            try:
                image.draft(mode, (width, height))  # a JPEG is decoded no larger than needed
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16 bits: `convert` would cut off, not scale
                    upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
                if "A" in upright.getbands() or "transparency" in upright.info:
                    seen = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", seen.size, _BLACK), seen)
                fitted = ImageOps.pad(upright.convert(mode), (width, height))
            except Exception as error:  # noqa: BLE001 - a decoder raises whatever its input leads it to
                raise InputError(f"image {place} cannot be decoded", received=str(error)[:200]) from None
        pixels = np.asarray(fitted, dtype=np.uint8).reshape(height, width, channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).reshape(-1)


def _pillow() -> Any:
    try:
        from PIL import Image, PngImagePlugin
    except ModuleNotFoundError:
        raise EncoderUnavailable("images need Pillow", expected="pip install pillow") from None
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MOST_TEXT_BYTES
    return Image


def _opened(item: bytes, place: int) -> Image.Image:
    """Return an image whose header was read; its pixels are not decoded yet."""
    module = _pillow()
    try:
        image: Image.Image = module.open(io.BytesIO(item), formats=_FORMATS)
    except Exception as error:  # noqa: BLE001 - see `_row`
        reason = "too many pixels" if isinstance(error, module.DecompressionBombError) else "unreadable"
        raise InputError(f"image {place}: {reason}", expected="a PNG or JPEG image") from None
    if image.width * image.height > MOST_PIXELS:
        image.close()
        received = f"{image.width} x {image.height}"
        raise InputError(f"image {place} has too many pixels", expected=f"{MOST_PIXELS} at most", received=received)
    return image
