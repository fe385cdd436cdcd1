"""`superposed serve`: serve a data directory."""

import gc
from typing import Annotated

import typer

from superposed_service.cli.arguments import ConfigFile, Directory


def serve(
    directory: Directory,
    file: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: 8000; 0: a free one.")] = None,
    preset: Annotated[str | None, typer.Option(help="Preset of a store that is made now; default: general.")] = None,
    device: Annotated[str | None, typer.Option(help="Device: auto, cpu or cuda; default: auto.")] = None,
    follow: Annotated[str | None, typer.Option(help="URL of a leader: follow its store.")] = None,
    members: Annotated[str | None, typer.Option(help="URLs of all servers of the store, with commas between.")] = None,
    sync_followers: Annotated[
        int | None, typer.Option(help="Followers that must have a change on disk before it is answered; default: 0.")
    ] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Port of gRPC (Open Inference Protocol); else none.")] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Listen beyond loopback without API keys, behind a proxy.")
    ] = False,
) -> None:
    """Serve the store in DIR; make one with the preset's settings if there is none."""
    gc.disable()  # what is imported stays: no collection is to look at it
    try:
        from superposed_service.cli.server_process import joined, run_server
        from superposed_service.cli.settings_loader import configure

        gc.freeze()
    finally:
        gc.enable()

    given = {"host": host, "port": port, "device": device, "preset": preset, "follow": follow}
    given |= {"members": members, "sync_followers": sync_followers}
    settings, _ = configure(file, **given)
    if grpc_port is not None:
        settings = settings.model_copy(update={"grpc_address": joined(settings.host, grpc_port)})
    run_server(directory, settings, allow_unauthenticated)
