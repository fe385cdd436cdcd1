"""LitServe with its dynamic batching."""

from __future__ import annotations

import os
from typing import Any

import litserve
from networks import answer, networks


class Networks(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.known = networks()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # annotations are taken for a query
        return request["task"], request["row"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: list[tuple[str, list[float]]]) -> list[int]:
        return answer(self.known, [task for task, _ in x], [row for _, row in x])

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int, **_: Any) -> dict[str, int]:
        return {"label": output}


if __name__ == "__main__":
    api = Networks(max_batch_size=64, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(os.environ["PORT"]), log_level="error", generate_client_file=False
    )
