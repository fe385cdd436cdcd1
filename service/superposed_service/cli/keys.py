"""`superposed keys create | list | revoke | rotate`: API keys of a data directory that no server is using."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from superposed_service.cli.arguments import Directory

_HELP = "Manage the API keys of a data directory (of a running server: /v1/keys)."
keys = typer.Typer(no_args_is_help=True, help=_HELP)

Identifier = Annotated[str, typer.Argument(metavar="ID", help="Id of the API key.")]
Quota = Annotated[float | None, typer.Option(help="Quota for each second, 0: none; default: the server's.", min=0)]


@keys.command("create")
def create_key(
    directory: Directory,
    scope: Annotated[
        Literal["monitor", "infer", "update", "replicate", "admin"],
        typer.Option(help="Scope: monitor (metrics), infer, update (infer and learn), replicate (follow) or admin."),
    ],
    name: Annotated[str, typer.Option(help="Note for the operator, as free text.")] = "",
    tasks: Annotated[str, typer.Option(help="Pattern of the task keys that the key may name.")] = "*",
    groups: Annotated[str, typer.Option(help="Pattern of the groups that its tasks may join, not name.")] = "",
    days: Annotated[float | None, typer.Option(help="Lifetime of the key in days.", min=0)] = None,
    requests_per_second: Quota = None,
    rows_per_second: Quota = None,
    updates_per_second: Quota = None,
) -> None:
    """Make an API key and show it, once. From the first one on, every request needs one."""
    from superposed_service.api.auth import create
    from superposed_service.storage import DataDirectory

    expires = None if days is None else time.time() + days * 86_400
    fields: dict[str, Any] = {"name": name, "groups": groups, "expires": expires}
    fields |= {"requests_per_second": requests_per_second, "rows_per_second": rows_per_second}
    fields |= {"updates_per_second": updates_per_second}
    with DataDirectory.existing(directory) as opened:
        _, text = create(opened.transaction_log(), scope=scope, tasks=tasks, **fields)
    typer.echo(text)


@keys.command("list")
def list_keys(directory: Directory) -> None:
    """List the API keys of DIR."""
    from superposed_service.api.auth import keys_body
    from superposed_service.storage import DataDirectory

    with DataDirectory.existing(directory) as opened:
        found = keys_body(opened.transaction_log().api_keys)
    table = Table(Column("id", no_wrap=True), "name", "scope", "tasks", "from", "to", "quotas a second", box=None)
    for key in found:
        ends = f"{_day(key['revoked'])} revoked" if key["revoked"] else _day(key["expires"])
        tasks = f"{key['tasks']}, groups: {key['groups']}" if key["groups"] else key["tasks"]
        table.add_row(key["id"], key["name"], key["scope"], tasks, _day(key["created"]), ends, _quotas(key))
    Console().print(table)


@keys.command("revoke")
def revoke_key(directory: Directory, identifier: Identifier) -> None:
    """End an API key; what it did stays on record under its id."""
    from superposed_service.api.auth import revoke
    from superposed_service.storage import DataDirectory

    with DataDirectory.existing(directory) as opened:
        revoke(opened.transaction_log(), identifier)


@keys.command("rotate")
def rotate_key(directory: Directory, identifier: Identifier) -> None:
    """Give an API key a new secret and show it, once; the old one is no good from now on."""
    from superposed_service.api.auth import rotate
    from superposed_service.storage import DataDirectory

    with DataDirectory.existing(directory) as opened:
        _, text = rotate(opened.transaction_log(), identifier)
    typer.echo(text)


def _quotas(key: dict[str, Any]) -> str:
    own = {unit: key[f"{unit}_per_second"] for unit in ("requests", "rows", "updates")}
    return ", ".join(f"{quota:g} {unit}" for unit, quota in own.items() if quota is not None)


def _day(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).date().isoformat()
