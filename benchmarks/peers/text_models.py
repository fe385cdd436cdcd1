"""Models of the texts benchmark's peers: one encoder, and a dict of a thousand logistic regressions."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(os.environ.get("BENCHMARK_FOLDER", "."))
# Texts whose embedding is kept, for the run in which texts come again; 0 keeps none.
KEPT = int(os.environ.get("BENCHMARK_KEPT", "0"))
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Encoder:
    """The exported model of `superposed.encoders`, in the same runtime, with as many threads."""

    def __init__(self) -> None:
        from onnxruntime import InferenceSession, SessionOptions
        from tokenizers import Tokenizer

        settings = json.loads((FOLDER / "encoder.json").read_text())
        options = SessionOptions()
        options.intra_op_num_threads = 1
        self.session = InferenceSession(FOLDER / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self.tokenizer.enable_truncation(settings["tokens"])
        self.tokenizer.enable_padding(**settings["padding"])

    def encode(self, texts: list[str]) -> Any:
        rows = np.empty((len(texts), 384), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), 16):
            chosen = order[start : start + 16]
            found = self.tokenizer.encode_batch([texts[place] for place in chosen])
            feeds = {
                one.name: np.asarray([getattr(each, _FIELDS[one.name]) for each in found])
                for one in self.session.get_inputs()
            }
            rows[chosen] = self.session.run(None, feeds)[0]
        return rows


class Models:
    """Answers texts of tasks: encoded together, then by each one's own regression."""

    def __init__(self) -> None:
        saved = np.load(FOLDER / "regressions.npz")
        self.weights, self.biases, self.labels = saved["weights"], saved["biases"], saved["labels"]
        encoder = Encoder()
        self.one = lru_cache(maxsize=KEPT)(lambda text: encoder.encode([text])[0]) if KEPT else None
        self.encode = encoder.encode

    def answer(self, tasks: list[int], texts: list[str]) -> list[str]:
        rows = self.encode(texts) if self.one is None else [self.one(text) for text in texts]
        scores = [self.weights[task] @ row + self.biases[task] for task, row in zip(tasks, rows, strict=True)]
        return [str(self.labels[task][score.argmax()]) for task, score in zip(tasks, scores, strict=True)]
