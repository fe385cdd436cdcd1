"""LitServe with its dynamic batching, for texts."""

from __future__ import annotations

import os
from typing import Any

import litserve
from text_models import Models


class Texts(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.models = Models()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # annotations are taken for a query
        return request["task"], request["text"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: list[tuple[int, str]]) -> list[str]:
        return self.models.answer([task for task, _ in x], [text for _, text in x])

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str, **_: Any) -> dict[str, str]:
        return {"label": output}


if __name__ == "__main__":
    api = Texts(max_batch_size=64, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(os.environ["PORT"]), log_level="error", generate_client_file=False
    )
