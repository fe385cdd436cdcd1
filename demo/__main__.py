"""`python -m demo`: real tasks, taught one after another over HTTP, and what the server answers of each."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from demo.run import run_demo


def main(
    data: Annotated[
        str, typer.Option(help="Data of the demo: texts, digits, or mnist where its files are present.")
    ] = "texts",
    output: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path("demo-results"),
    keep: Annotated[
        bool | None, typer.Option(help="Leave the server running at the end; default: on a terminal.")
    ] = None,
) -> None:
    """Start a server, teach it real tasks one after another over HTTP, and show what it remembers."""
    # Ended from outside, it still stops the server that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep = sys.stdout.isatty() if keep is None else keep
    if data == "texts":
        from demo.tenants import run_tenants

        run_tenants(output, keep=keep)
    else:
        run_demo(data, output, keep=keep)


if __name__ == "__main__":
    typer.run(main)
