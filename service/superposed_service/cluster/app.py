"""The ingress as a Ray Serve application: `serve run superposed_service.cluster.app:app config=cluster.toml`."""

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Any

import ray
import uvicorn
from ray import serve

from superposed_service.cluster.actors import coordinator
from superposed_service.cluster.config import ClusterConfig, read_config
from superposed_service.cluster.ingress import Ingress
from superposed_service.errors import NotReady
from superposed_service.settings import Settings

_LOOK_S = 1.0


class LocatedIngress:
    """An ingress that asks the coordinator now and then where the servers are: an ASGI application."""

    def __init__(self, config: ClusterConfig) -> None:
        most = int(config.settings.get("max_body_bytes", Settings.model_fields["max_body_bytes"].default))
        self._coordinator = coordinator(config)
        self._ingress = Ingress(dict.fromkeys(config.cells, ()), config.patterns, most)
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
    """A process of the ingress; it listens on the cluster's port itself, or is given requests by Ray Serve's proxy."""

    def __init__(self, config: ClusterConfig, *, listens: bool) -> None:
        self._config = config
        self._thread = threading.Thread(target=self._serve, daemon=True)
        if listens:
            self._thread.start()

    def _serve(self) -> None:
        address = (self._config.host, self._config.port)
        shared = socket.create_server(address, reuse_port=True)  # with the others of this node
        app = LocatedIngress(self._config)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", server_header=False)).run([shared])

    def check_health(self) -> None:
        """Raise `NotReady` where it does not listen any more: Ray Serve then starts another one."""
        if self._thread.ident and not self._thread.is_alive():
            raise NotReady(f"port {self._config.port} is taken, or its server has ended")

    def __serve_build_asgi_app__(self) -> LocatedIngress:
        """Return the application, for Ray Serve's proxy."""
        return LocatedIngress(self._config)


def application(config: ClusterConfig, *, listens: bool) -> Any:
    """Return the Ray Serve application of a cluster, whose servers are started where they do not run.

    Where it `listens`, without Ray Serve's proxy, each node has `ingresses` processes of it; else there are as many.
    """
    coordinator(config)
    deployed = serve.deployment(name="ingress", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    ingress: Any = deployed(serve.ingress()(IngressReplica))
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]  # Ray has no annotation there
    count = {"num_replicas": config.ingresses * nodes, "max_replicas_per_node": config.ingresses}
    return ingress.options(**count if listens else {"num_replicas": config.ingresses}).bind(config, listens=listens)


def app(arguments: dict[str, str]) -> Any:
    """Return the application of the configuration that `serve run` names, behind Ray Serve's proxy."""
    return application(read_config(Path(arguments["config"]) if "config" in arguments else None), listens=False)
