"""A worker process: `python -m superposed_service.workers.worker`. It imports no torch."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys

import uvloop

from superposed_service.workers.proxy import Client, Limits

__all__ = ["main"]


async def _serve(listening: socket.socket, engine: str, limits: Limits, grace_s: float) -> None:
    """Accepts until SIGTERM, then finishes what was asked; ends at once with the engine's process."""
    loop, clients, stopping = asyncio.get_running_loop(), set[Client](), asyncio.Event()
    done = asyncio.Event()

    def closed(client: Client) -> None:
        clients.discard(client)
        if stopping.is_set() and not clients:
            done.set()

    def accepted() -> Client:
        client = Client(engine, limits, closed)
        clients.add(client)
        return client

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # The engine's process holds the other end of this pipe, and writes nothing to it.
    loop.add_reader(sys.stdin.fileno(), os._exit, 1)
    server = await loop.create_server(accepted, sock=listening)
    await stopping.wait()
    server.close()
    for client in list(clients):
        client.drain()
    if clients:
        await asyncio.wait([asyncio.ensure_future(done.wait())], timeout=grace_s)


def main() -> None:
    """Serves one inherited listening socket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listening", type=int, required=True, help="The number of the socket's file.")
    parser.add_argument("--engine", required=True, help="The path of the engine's socket.")
    parser.add_argument("--body-bytes", type=int, required=True)
    parser.add_argument("--body-s", type=float, required=True)
    parser.add_argument("--head-bytes", type=int, required=True)
    parser.add_argument("--head-s", type=float, required=True)
    parser.add_argument("--grace-s", type=float, required=True)
    asked = parser.parse_args()
    listening = socket.socket(fileno=asked.listening)
    listening.setblocking(False)
    limits = Limits(asked.body_bytes, asked.body_s, asked.head_bytes, asked.head_s)
    uvloop.run(_serve(listening, asked.engine, limits, asked.grace_s))


if __name__ == "__main__":
    main()
