"""Texts as sentence embeddings: a sentence-transformers model, run by ONNX Runtime on the CPU.

The model is exported once, by a process of its own, into a folder; from then on only that folder, ONNX
Runtime and `tokenizers` are needed.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from superposed.config import OriginalKind
from superposed.errors import EncoderUnavailable

MODEL, TOKENIZER, SETTINGS = "model.onnx", "tokenizer.json", "encoder.json"
_exports: set[subprocess.Popen[bytes]] = set()
_INSTALL = "pip install 'superposed[text]'"
# Texts of one call, sorted by length: longer batches pad more than they save.
_BATCH = 16
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


@dataclass(frozen=True)
class SentenceEncoder:
    """Texts as rows, as the model's own `encode` returns them; what is longer than it reads is cut.

    `fingerprint` is that of the model's files: weights, tokenizer, pooling.
    """

    width: int
    fingerprint: str
    session: Any
    tokenizer: Any
    kind: ClassVar[OriginalKind] = "texts"

    @classmethod
    def of(cls, source: str, folder: Path, threads: int) -> Self:
        """Open an exported model, of a name or a directory's path; export it where the folder is not there.

        Raise `EncoderUnavailable` where the model or a package is missing, or the folder is damaged.
        """
        try:
            from onnxruntime import InferenceSession, SessionOptions
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            problem = "sentence embeddings need packages that are not installed"
            raise EncoderUnavailable(problem, expected=_INSTALL, received=error.name) from None
        if not (folder / SETTINGS).exists():
            _export(source, folder)
        settings = _read_settings(folder)
        options = SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = InferenceSession(folder / MODEL, options, providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        tokenizer.enable_truncation(settings["tokens"])
        tokenizer.enable_padding(**settings["padding"])
        return cls(settings["width"], settings["fingerprint"], session, tokenizer)

    def encode(self, items: Sequence[Any], places: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return rows (B, width) float32; equal to a call with each text alone, to rounding."""
        order = sorted(range(len(items)), key=lambda place: len(items[place]))
        rows = np.empty((len(items), self.width), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            encodings = self.tokenizer.encode_batch([items[place] for place in chosen])
            feeds = {
                one.name: np.asarray([getattr(encoding, _FIELDS[one.name]) for encoding in encodings])
                for one in self.session.get_inputs()
            }
            rows[chosen] = self.session.run(None, feeds)[0]
        return rows


def _export(source: str, folder: Path) -> None:
    """Export a model in another process, whose packages take half a gigabyte of memory."""
    command = [sys.executable, "-W", "ignore", "-m", "superposed.encoders.export", source, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe) as process:  # noqa: S603 - our own
        _exports.add(process)  # it ends itself once its input does: with this process
        told = b"" if process.stderr is None else process.stderr.read()
    _exports.discard(process)
    if process.returncode:
        reason = (told.decode(errors="replace").strip().splitlines() or ["no message"])[-1][:300]
        missing = reason.startswith("ModuleNotFoundError")
        wanted = f"a model of the Hugging Face Hub, its directory, or a copy of {folder} and another start"
        problem = f"the sentence encoder {source} cannot be made ready"
        raise EncoderUnavailable(problem, expected=_INSTALL if missing else wanted, received=reason)


def stop_exports() -> None:
    """End the exports that this process has begun."""
    for process in list(_exports):
        process.kill()


def _read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of an export whose files are as it wrote them."""
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
        good = all(sha256(folder / name) == settings[name] for name in (MODEL, TOKENIZER))
    except (OSError, ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise EncoderUnavailable(f"the encoder's files are damaged: remove {folder}, and start again")
    return settings


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, empty where it is not there."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
