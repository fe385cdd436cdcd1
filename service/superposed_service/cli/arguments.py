"""Arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The data directory.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="File with one store.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")]
