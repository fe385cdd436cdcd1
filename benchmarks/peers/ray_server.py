"""Ray Serve with its request batching."""

from __future__ import annotations

import os
import time
from typing import Any

import ray
from networks import answer, networks
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256)
class Networks:
    def __init__(self) -> None:
        self.known = networks()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def together(self, bodies: list[dict[str, Any]]) -> list[int]:
        return answer(self.known, [body["task"] for body in bodies], [body["row"] for body in bodies])

    async def __call__(self, request: Request) -> dict[str, int]:
        return {"label": await self.together(await request.json())}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": int(os.environ["PORT"])})
    serve.run(Networks.bind(), route_prefix="/predict")
    while True:
        time.sleep(1)
