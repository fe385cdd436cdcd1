"""The ingress as a Ray Serve application: `serve run superposed_service.cluster.app:app config=cluster.toml`."""

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray import serve

from superposed_service.cluster.actors import coordinator
from superposed_service.cluster.config import ClusterConfig, read_config
from superposed_service.cluster.ingress import Ingress

_LOOK_S = 1.0


class LocatedIngress:
    """An ingress that asks the coordinator once a second where the servers are: an ASGI application."""

    def __init__(self, config: ClusterConfig) -> None:
        self._coordinator = coordinator(config)
        self._ingress = Ingress(dict.fromkeys(config.cells, ()), config.patterns)
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if self._looking is None and scope["type"] == "http":
            await self._look()
            self._looking = asyncio.create_task(self._look_again())
        await self._ingress(scope, receive, send)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._look()

    async def _look(self) -> None:
        """Take the servers' URLs from the coordinator; while it is away those that are known count."""
        try:
            urls = await asyncio.wait_for(self._coordinator.urls.remote(), _LOOK_S)
        except (TimeoutError, ray.exceptions.RayError):
            return
        for name, cell in self._ingress.cells.items():
            cell.urls = urls[name]


class IngressReplica:
    """A process of the ingress, as Ray Serve wants it."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config

    def __serve_build_asgi_app__(self) -> LocatedIngress:
        """Return the application."""
        return LocatedIngress(self._config)


def application(config: ClusterConfig) -> Any:
    """Return the Ray Serve application of a cluster, whose servers are started where they do not run."""
    coordinator(config)
    deployment = serve.deployment(
        name="ingress", num_replicas=config.ingresses, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.5}
    )
    return deployment(serve.ingress()(IngressReplica)).bind(config)


def app(arguments: dict[str, str]) -> Any:
    """Return the application of the configuration that `serve run` names."""
    config = arguments.get("config")
    return application(read_config(Path(config) if config else None))
