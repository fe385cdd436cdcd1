"""The `superposed` command.

A command's function imports what it needs: torch alone takes a second, which `--help` has no use for.
"""

import json
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from superposed.errors import SuperposedError
from superposed_service.cli.arguments import ConfigFile
from superposed_service.cli.cluster import cluster
from superposed_service.cli.data_directory import export, import_store, log, verify_directory
from superposed_service.cli.init import init
from superposed_service.cli.keys import keys
from superposed_service.cli.rows import evaluate, predict, promote, status, tasks, teach
from superposed_service.cli.serve import serve

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(keys, name="keys")
config = typer.Typer(no_args_is_help=True, help="Show settings. The order: flags, environment, TOML file, defaults.")
app.add_typer(config, name="config")
app.add_typer(cluster, name="cluster")
for command in (init, serve, promote, status, tasks, teach, predict, evaluate):
    app.command()(command)
app.command("verify")(verify_directory)
app.command()(log)
app.command()(export)
app.command("import")(import_store)
_console = Console(stderr=True)


def run() -> None:
    """Run the command line; an expected error is one line and exit code 1."""
    try:
        app()
    except SuperposedError as error:
        _console.print(f"superposed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("superposed"))
        raise typer.Exit


@app.callback()
def _superposed(
    _: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version.")] = False,
) -> None:
    """Many task models in one set of weights, each served and taught by its key."""


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
    table = Table(Column("setting", no_wrap=True), "value", "from", "what")
    for name, value in values.items():
        table.add_row(name, json.dumps(value), origins[name], type(settings).model_fields[name].description)
    Console().print(table)
    typer.echo("Set one by SUPERPOSED_<SETTING>, or in a file that --config or SUPERPOSED_CONFIG names.")
