"""The process of `superposed serve`; it listens on loopback only, unless something controls access."""

import contextlib
import gc
import ipaddress
import logging.config
import math
import signal
import sys
from pathlib import Path

import typer
import uvicorn

from superposed.config import StoreConfig
from superposed.errors import ConfigError
from superposed_service.api.app import create_api, guarded
from superposed_service.api.auth import begin_with
from superposed_service.api.server.connections import HttpServer, allow_connections, bounded_protocol
from superposed_service.cli.new_store import begin_store, default_encoders
from superposed_service.followers.follower import seed
from superposed_service.observability.logs import logging_config
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

# The event loop and the engine's thread take turns: with Python's own 5 ms, each product of the engine's
# would wait so long behind a flood of requests that are refused (docs/decisions/0020-overload.md).
SWITCH_S = 0.0005


def run_server(directory: Path, settings: Settings, allow_unauthenticated: bool) -> None:
    """Serve a data directory until the process is told to stop; a new store is made in an empty one.

    Raise `SuperposedError` where it cannot be opened or served so, and `typer.Exit` where the server did not start or
    the directory was replaced meanwhile.
    """
    logging.config.dictConfig(logging_config(settings))
    with DataDirectory(directory, snapshots_kept=settings.snapshots_kept) as opened:
        new, first_key = opened.untouched, settings.first_api_key.get_secret_value()
        has_keys = bool(first_key) or (not new and len(opened.transaction_log().api_keys) > 0)
        check_addresses(settings, allow_unauthenticated, has_keys)
        if new and settings.follow:
            seed(opened, settings)
        elif new:
            new_config = StoreConfig.of_preset(settings.preset)
            begin_store(opened, new_config, default_encoders(new_config))
        if first_key:
            begin_with(opened.transaction_log(), first_key)
        api = create_api(settings, opened)
        allow_connections(settings)
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()  # what is there now stays: a full collection would hold requests up to look at it
        application, end_streams = guarded(api, settings), api.state.events.close
        config = uvicorn.Config(
            application,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            http=bounded_protocol(settings, api.state.direct),
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=30,
            timeout_keep_alive=math.ceil(settings.keep_alive_s),
        )
        server = HttpServer(config, end_streams)
        # The server passes the signal on once it has stopped; before it listens, the process just ends.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with contextlib.suppress(KeyboardInterrupt):  # raised again once the server has stopped
                server.run()
        except SystemExit:
            place = joined(settings.host, settings.port)
            typer.echo(f"superposed: no server on {place}, for the reason above; --port takes another port", err=True)
        if not server.started:
            raise typer.Exit(3)
        if opened.replaced:  # it was moved or replaced meanwhile: no snapshot was taken
            raise typer.Exit(4)


def joined(host: str, port: int) -> str:
    """Return `host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_addresses(settings: Settings, allowed: bool, has_keys: bool) -> None:
    """Check the addresses of HTTP and gRPC: without API keys they are on this machine.

    Raise `ConfigError` for another one, unless it is `allowed` by access control in front.
    """
    if allowed or has_keys:
        return
    hosts = {settings.host: settings.host}
    if settings.grpc_address:
        hosts[settings.grpc_address] = settings.grpc_address.rpartition(":")[0].strip("[]")
    for address, host in hosts.items():
        if not _is_local(host):
            text, wanted = "every client that reaches this address could read and change every task", "API keys"
            wanted += " (superposed keys create), a loopback address, or --allow-unauthenticated"
            raise ConfigError(text, expected=f"{wanted} where access is controlled in front", received=address)


def _is_local(host: str) -> bool:
    """Return True if only this machine reaches the host; an empty host is every interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
