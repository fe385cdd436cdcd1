"""Encoders: from what users have (texts, images, named values) to rows of numbers.

A store names its encoders in its configuration. Each is described by a text:

- `sentence-transformers:NAME`, or the path of a model's directory: sentence embeddings (extra `text`).
- `hash`, `hash:WIDTH`: n-grams of characters and words, hashed; no model.
- `pixels:CHANNELSxHEIGHTxWIDTH`: PNG and JPEG images.

An encoder has a `kind` of items, the `width` of its rows, and a `fingerprint` that is equal for encoders that
encode alike. `encode(items, places)` makes a row of each item; errors call items by their `places`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from superposed.config import EncoderConfig, OriginalKind
from superposed.encoders.hashing import HashEncoder
from superposed.encoders.pixels import SIGNATURES, PixelEncoder
from superposed.encoders.sentences import SentenceEncoder
from superposed.errors import ConfigError, InputError, redacted

Encoder: TypeAlias = HashEncoder | PixelEncoder | SentenceEncoder
LONGEST_TEXT = 65_536

__all__ = ["Encoder", "HashEncoder", "PixelEncoder", "SentenceEncoder", "check_items", "describe", "open_encoder"]


def check_items(kind: OriginalKind, items: Sequence[Any]) -> None:
    """Check items at a low cost, before they are encoded; raise `InputError` for no text, no image, or a long text."""
    for place, item in enumerate(items):
        if kind == "images":  # by their first bytes: nothing is unpacked
            if not (isinstance(item, bytes) and item.startswith(SIGNATURES)):
                raise InputError(f"image {place} is no image", expected="a PNG or JPEG file", received=redacted(item))
        elif not isinstance(item, str):
            raise InputError(f"text {place} is no text", expected="a string", received=redacted(item))
        elif len(item) > LONGEST_TEXT:
            most = f"{LONGEST_TEXT} characters at most"
            raise InputError(f"text {place} is too long", expected=most, received=len(item))


def open_encoder(spec: str, folder: Path, *, threads: int = 1) -> Encoder:
    """Open the encoder that a text describes, see the module; one call has `threads` threads.

    A sentence encoder keeps its model in the folder; it is made there the first time. Raise `ConfigError` where there
    is no such encoder; `EncoderUnavailable` where its model or a package is missing.
    """
    name, _, argument = spec.partition(":")
    if name == "hash":
        return HashEncoder.of(argument)
    if name == "pixels":
        return PixelEncoder.of(argument)
    if name == "sentence-transformers" and argument:
        return SentenceEncoder.of(argument, folder, threads)
    expected = "sentence-transformers:NAME (or a directory), hash:WIDTH, or pixels:1x28x28"
    raise ConfigError("no such encoder", expected=expected, received=spec)


def describe(spec: str, folder: Path) -> EncoderConfig:
    """Return what a store records of an encoder; raises as `open_encoder`."""
    name, _, argument = spec.partition(":")
    if name == "sentence-transformers" and argument and Path(argument).is_dir():
        spec = f"{name}:{Path(argument).resolve()}"  # the server may run in another directory
    found = open_encoder(spec, folder)
    return EncoderConfig(spec=spec, kind=found.kind, width=found.width, fingerprint=found.fingerprint)
