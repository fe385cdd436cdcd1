"""`superposed config show`: what a server started here and now would run with."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from superposed_service.cli.arguments import ConfigFile

_HELP = "Show settings: flags override the environment, which overrides the TOML file."
config = typer.Typer(no_args_is_help=True, help=_HELP)


@config.callback()
def _config() -> None:
    """Keep `show` a command of its own, though it is the only one."""


@config.command()
def show(
    file: ConfigFile = None, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Show every setting and where its value comes from."""
    from superposed_service.cli.settings_loader import configure

    settings, origins = configure(file)
    values = settings.model_dump(mode="json")
    if as_json:
        shown = {name: {"value": value, "from": origins[name]} for name, value in values.items()}
        typer.echo(json.dumps(shown, indent=1))
        return
    table = Table("setting", "value", "from", "what")
    for name, value in values.items():
        table.add_row(name, json.dumps(value), origins[name], type(settings).model_fields[name].description)
    Console().print(table)
