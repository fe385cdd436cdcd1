"""The ingress as a Ray Serve application: `serve run superposed_service.cluster.app:app config=cluster.toml`."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from superposed_service.cluster.actors import coordinator
from superposed_service.cluster.config import ClusterConfig, read_config
from superposed_service.cluster.ingress import Ingress

_LOOK_S = 1.0


class LocatedIngress:
    """An ingress that asks the coordinator now and then where the servers are: an ASGI application."""

    def __init__(self, config: ClusterConfig) -> None:
        self._coordinator, self._ingress = (
            coordinator(config),
            Ingress(dict.fromkeys(config.cells, ()), config.patterns),
        )
        self._look_at = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; while the coordinator is away, the URLs that are known count."""
        if scope["type"] == "http" and time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + _LOOK_S
            with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
                urls = await asyncio.wait_for(self._coordinator.urls.remote(), _LOOK_S)
                for name, cell in self._ingress.cells.items():
                    cell.urls = urls[name]
        await self._ingress(scope, receive, send)


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
    return application(read_config(Path(arguments["config"]) if "config" in arguments else None))
