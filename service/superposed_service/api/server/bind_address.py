"""Bind address of the service: loopback only, unless something controls access."""

import ipaddress

from superposed.errors import ConfigError
from superposed_service.settings import Settings


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
            raise ConfigError(
                "every client that reaches this address could read and change every task",
                expected="API keys (superposed keys create), a loopback address, or --allow-unauthenticated"
                " where access is controlled in front",
                received=address,
            )


def _is_local(host: str) -> bool:
    """Return True if only this machine reaches the host; an empty host is every interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
