"""Count the rooms that one inference request visits, from a trace: `python -m tools.walk`.

A room is a folder of a package. A stay is a call into a room from another one that itself calls further code
of ours; lookups that call nothing further (a header, a length, a counter) are no stay.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from types import FrameType

import httpx

from superposed_service.api.app import create_api, guarded
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory

PACKAGES = ("superposed", "superposed_service")


def room(frame: FrameType | None) -> str:
    """Return the folder of a frame's module; empty for code that is not ours."""
    name = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return name.rpartition(".")[0] if name.split(".")[0] in PACKAGES else ""


def outer(frame: FrameType) -> FrameType | None:
    """Return the next frame of ours that a frame was called from."""
    caller = frame.f_back
    while caller is not None and not room(caller):
        caller = caller.f_back
    return caller


class Trace:
    """Calls between rooms, in order."""

    def __init__(self) -> None:
        self.stays: list[tuple[FrameType, str]] = []
        self.calling: set[FrameType] = set()
        self.rooms: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call; to be given to `sys.setprofile`."""
        if event != "call" or not (here := room(frame)):
            return
        self.rooms.add(here)
        if (caller := outer(frame)) is not None:
            self.calling.add(caller)
        if room(caller) != here:
            self.stays.append((frame, f"{here.replace('superposed_service', 'service')}.{frame.f_code.co_name}"))

    def walk(self) -> list[str]:
        """Return the stays: calls into a room that call further."""
        return [name for frame, name in self.stays if frame in self.calling]


async def trace(folder: Path) -> Trace:
    """Return the trace of one inference request after some that warm the server up."""
    settings, found = Settings(), Trace()
    with DataDirectory(make_directory(folder / "store")) as directory:
        api = create_api(settings, directory)
        transport = httpx.ASGITransport(app=guarded(api, settings))
        async with (
            api.router.lifespan_context(api),
            httpx.AsyncClient(transport=transport, base_url="http://walk") as client,
        ):
            await client.post("/v1/tasks", json={"key": "a", "outputs": 3})
            body = {"context": "a", "inputs": [[0.5] * 64]}
            for _ in range(30):
                (await client.post("/v1/infer", json=body)).raise_for_status()
            sys.setprofile(found)
            await client.post("/v1/infer", json=body)
            sys.setprofile(None)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(trace(Path(folder)))
    print(f"{len(found.rooms)} rooms, {len(found.walk())} stays", *found.walk(), sep="\n")
