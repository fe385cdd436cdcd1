"""The sentence encoder of the tests, exported once for all of them; and small images as files."""

from __future__ import annotations

import fcntl
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from superposed.encoders import SentenceEncoder, describe, open_encoder
from superposed.encoders.sentences import SETTINGS

MINILM = "sentence-transformers:all-MiniLM-L6-v2"
_SHARED = Path(tempfile.gettempdir()) / "superposed-tests-minilm"


def minilm_folder() -> Path:
    """Return the folder of the exported model; made by the first test process that asks."""
    _SHARED.mkdir(exist_ok=True)
    with (_SHARED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = _SHARED / "model"
        if not (folder / SETTINGS).exists():
            describe(MINILM, folder)
        return folder


def minilm() -> SentenceEncoder:
    found = open_encoder(MINILM, minilm_folder())
    assert isinstance(found, SentenceEncoder)
    return found


def copied_minilm(folder: Path) -> Path:
    """Put the exported model into a folder, as `init` would."""
    shutil.copytree(minilm_folder(), folder)
    return folder


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Return a picture's file, (height, width) grey or (height, width, 3 or 4)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
