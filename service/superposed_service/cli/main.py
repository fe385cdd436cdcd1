"""The `superposed` command's entry point: says what to install where a part is missing."""

import sys


def main() -> None:
    """Run the command line."""
    sys.path.append("")  # the working directory: a store's network may be the user's own
    try:
        from superposed_service.cli.commands import run

        run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("superposed"):
            raise
        sys.exit(f"superposed: {error.name} is not installed; run: pip install 'superposed[service]'")
