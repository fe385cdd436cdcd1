"""`superposed cluster up | status | move | drain | restart | down`: cells on a running Ray cluster."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from superposed.errors import ConfigError
from superposed_service.cli.rows import connected
from superposed_service.errors import NotReady

cluster = typer.Typer(no_args_is_help=True, help="Run many stores (cells) on a Ray cluster (extra `cluster`).")

ConfigArgument = Annotated[Path | None, typer.Argument(metavar="CONFIG", help="TOML file of the cluster.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="CONFIG", help="TOML file of the cluster.")]
_READY_S, _LOOK_S = 180.0, 0.5


@contextlib.contextmanager
def _connected(path: Path | None) -> Iterator[tuple[Any, Any, Any]]:
    """Connect to the Ray cluster that runs here; give the configuration, Ray, and the module of its actors."""
    try:
        import ray

        from superposed_service.cluster import actors
        from superposed_service.cluster.config import read_config
    except ModuleNotFoundError as error:
        text = "a cluster needs Ray"
        raise ConfigError(text, expected="pip install 'superposed[cluster]'", received=error.name) from None
    config = read_config(path)
    try:
        ray.init(address="auto", namespace=config.name, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError:
        text = "no Ray cluster runs on this machine"
        raise ConfigError(text, expected="`ray start --head`, and `ray start --address HEAD` elsewhere") from None
    try:
        yield config, ray, actors
    except ray.exceptions.RayError as error:
        raise NotReady("the cluster did not do it", received=str(error)[-500:]) from None
    finally:
        ray.shutdown()


@cluster.command()
def up(path: ConfigArgument = None) -> None:
    """Start what does not run of a cluster, cells that were added too; wait until every cell has a leader."""
    with _connected(path) as (config, ray, actors):
        from ray import serve

        from superposed_service.cluster.app import application

        with contextlib.suppress(ValueError):  # it keeps nothing, and may have an older configuration
            ray.kill(ray.get_actor("coordinator", config.name))
        serve.start(proxy_location="Disabled")  # the ingress listens itself
        serve.run(application(config, listens=True), name=config.name, route_prefix=None)
        known, until = actors.coordinator(config), time.monotonic() + _READY_S
        while waiting := _not_up(_servers(known), config):
            if time.monotonic() > until:
                text = f"cells without a leader and followers: logs are beside {config.directory}/CELL/NUMBER"
                raise NotReady(text, received=", ".join(waiting))
            time.sleep(_LOOK_S)
        ray.get(known.share_keys.remote())
        typer.echo(f"{len(config.cells)} cells of {config.servers} servers: http://127.0.0.1:{config.port}")


@cluster.command()
def status(path: ConfigOption = None) -> None:
    """Show the servers of each cell: where they are, what they do, and how new they are."""
    with _connected(path) as (config, _, actors):
        table = Table("cell", "server", "URL", "role", "epoch", "record")
        for one in _servers(actors.coordinator(config)):
            shown = {"role": "not reached", "epoch": "", "sequence": ""} | one
            table.add_row(*(str(shown[name]) for name in ("cell", "server", "url", "role", "epoch", "sequence")))
        Console().print(table)


@cluster.command()
def move(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The task.")],
    cell: Annotated[str, typer.Argument(metavar="CELL", help="The cell that is to have it.")],
    source: Annotated[str, typer.Option(help="The cell that has it; default: where the ingress finds it.")] = "",
    url: Annotated[str, typer.Option(envvar="SUPERPOSED_URL", help="URL of the ingress.")] = "http://127.0.0.1:8000",
) -> None:
    """Teach a task to another cell, show how far both agree, and have that cell answer from then on.

    A move that broke off goes on with another attempt; where the task is not found any more, with --source.
    """
    from superposed_service.cluster.move import cell_of, move_task

    with connected(url):
        source = source or cell_of(url, key)
        if source == cell:
            raise ConfigError(f"{key} is in cell {cell} already", expected="another cell")
        moved = move_task(url, key, source, cell, progress=typer.echo)
    typer.echo(f"{key} is in cell {cell} now: {moved.updates} updates of {moved.rows} rows taught again")


@cluster.command()
def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="IP address of the node.")],
    path: ConfigOption = None,
    back: Annotated[bool, typer.Option("--back", help="Start again what drains have stopped.")] = False,
) -> None:
    """Stop the servers of a node, others leading their cells before, so that the node can be taken away."""
    with _connected(path) as (config, ray, actors):
        known = actors.coordinator(config)
        stopped = ray.get(known.undrain.remote() if back else known.drain.remote(node))
        typer.echo("started again" if back else f"stopped: {', '.join(stopped) or 'nothing was there'}")


@cluster.command()
def restart(path: ConfigOption = None) -> None:
    """Start every server anew, one after another and leaders last: after an upgrade of the package."""
    with _connected(path) as (config, ray, actors):
        known = actors.coordinator(config)
        for cell in config.cells:
            servers = _servers(known, cell)
            for one in sorted(servers, key=lambda one: one.get("role") == "leader"):
                ray.get(known.restart.remote(cell, one["server"]))
                _wait_until_level(known, cell, one["server"])
                typer.echo(f"{cell}-{one['server']} was started anew")


@cluster.command()
def down(path: ConfigOption = None) -> None:
    """Stop the ingress and all servers; the data directories stay."""
    with _connected(path) as (config, ray, actors):
        from ray import serve

        serve.delete(config.name)
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor("coordinator", config.name))
        for cell in config.cells:
            servers = [actors.actor_of(config, cell, number) for number in range(config.servers)]
            ray.get([one.stop.remote() for one in servers])
            for one in servers:
                ray.kill(one)
            ray.util.remove_placement_group(actors.placed(config, cell))


def _not_up(servers: list[dict[str, Any]], config: Any) -> list[str]:
    """Return the cells without a leader, or without as many followers as a change waits for."""
    roles = {cell: [one.get("role") for one in servers if one["cell"] == cell] for cell in config.cells}
    wanted = config.sync_followers
    return [cell for cell, own in roles.items() if "leader" not in own or own.count("follower") < wanted]


def _servers(known: Any, cell: str = "") -> list[dict[str, Any]]:
    """Return the servers of a cell, or of all, as the coordinator knows them."""
    import ray

    return [one for one in ray.get(known.table.remote()) if cell in {"", one["cell"]}]


def _wait_until_level(known: Any, cell: str, number: int) -> None:
    """Wait until a server that was just stopped is as new as any of its cell was then."""
    until, wanted = time.monotonic() + _READY_S, max(one.get("sequence", 0) for one in _servers(known, cell))
    time.sleep(2 * _LOOK_S)  # until the coordinator has missed it
    while _servers(known, cell)[number].get("sequence", -1) < wanted:
        if time.monotonic() > until:
            raise NotReady(f"server {number} of cell {cell} has not caught up", expected=f"record {wanted}")
        time.sleep(_LOOK_S)
