"""`superposed promote`: make another of a store's servers the leader."""

from typing import Annotated

import typer

from superposed_service.cli.rows import connected


def promote(
    url: Annotated[str, typer.Argument(metavar="URL", help="URL of the server that is to lead.")],
    allow_loss: Annotated[
        bool, typer.Option(help="Promote although acknowledged changes may be lost with servers that are not reached.")
    ] = False,
) -> None:
    """Make the server at URL the leader, or the one with the newest records where the old leader is not reached.

    The API key, of scope replicate, comes from SUPERPOSED_API_KEY.
    """
    with connected(url) as client:
        done = client.promote(allow_loss=allow_loss)
    typer.echo(
        f"{done.leader or url} leads epoch {done.epoch}, from record {done.sequence + 1} on;"
        f" {done.promised} servers have promised it"
    )
