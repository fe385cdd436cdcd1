"""The `superposed` command.

A command's function imports what it needs: torch alone takes a second, which `--help` has no use for.
"""

from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from superposed.errors import SuperposedError
from superposed_service.cli.cluster import cluster
from superposed_service.cli.config import config
from superposed_service.cli.data_directory import export, import_store, log, verify_directory
from superposed_service.cli.init import init
from superposed_service.cli.keys import keys
from superposed_service.cli.rows import evaluate, predict, promote, status, tasks, teach
from superposed_service.cli.serve import serve

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="The `superposed` command.")
app.add_typer(keys, name="keys")
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
        _console.print(f"superposed: {error}", style="red", markup=False, highlight=False)
        raise SystemExit(1) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("superposed"))
        raise typer.Exit


@app.callback()
def _superposed(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Many task models in one set of weights, each served and taught by its key."""
