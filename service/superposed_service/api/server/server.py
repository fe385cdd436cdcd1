"""The HTTP server: uvicorn, which ends what would not end by itself when it is told to stop."""

import socket
from collections.abc import Callable

import uvicorn


class HttpServer(uvicorn.Server):
    """Calls `end_streams`, on the event loop, before it waits for its connections to finish."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._end_streams()
        await super().shutdown(sockets)
