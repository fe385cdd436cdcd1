"""From a file, the environment and flags to the settings, and where each value came from."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from superposed.errors import ConfigError
from superposed_service.settings import Settings

__all__ = ["CONFIG_VARIABLE", "Configuration", "configure"]

# Names the file where no flag does.
CONFIG_VARIABLE = "SUPERPOSED_CONFIG"
_PREFIX = "SUPERPOSED_"


@dataclass(frozen=True)
class Configuration:
    """Settings, and how they came about.

    Args:
        settings: What holds.
        origins: Where each value came from: `default`, `file …`, `environment …` or `flag`.
    """

    settings: Settings
    origins: Mapping[str, str]


def configure(file: Path | None = None, **flags: object) -> Configuration:
    """Return defaults, over them a TOML file, over it the environment, over it the flags.

    Args:
        file: The file; default what `SUPERPOSED_CONFIG` names, if anything.
        **flags: Settings by name; None is one that was not given.

    Raises:
        ConfigError: Which setting is wrong or unknown, where it came from, and what was expected.
    """
    _check_environment()
    if file is None and (named := os.environ.get(CONFIG_VARIABLE)):
        file = Path(named)
    layers = {
        f"file {file}": {} if file is None else _read(file),
        "environment": EnvSettingsSource(Settings)(),
        "flag": {name: value for name, value in flags.items() if value is not None},
    }
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, layer in layers.items():
        values |= layer
        origins |= {
            name: f"{origin} {_PREFIX}{name.upper()}" if origin == "environment" else origin for name in layer
        }
    try:
        # All are given by name, so that the environment is not asked again.
        return Configuration(Settings(**values), origins)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"setting {name} ({origins[str(first['loc'][0])]}): {first['msg']}",
            received=repr(first["input"])[:100],
        ) from None


# Variables with the prefix that are no settings: the client's key, data sets, and this file's name.
_OTHER_VARIABLES = frozenset({"API_KEY", "DATA_DIR", "CONFIG"})


def _check_environment() -> None:
    """Refuse variables that look like settings and are none: a misspelt limit would be no limit.

    Raises:
        ConfigError: Which, and what was perhaps meant.
    """
    names = {name.upper() for name in Settings.model_fields} | _OTHER_VARIABLES
    given = {name.upper().removeprefix(_PREFIX) for name in os.environ if name.upper().startswith(_PREFIX)}
    if not (unknown := sorted(given - names)):
        return
    near = {found for name in unknown for found in difflib.get_close_matches(name, names, n=1)}
    raise ConfigError(
        f"no such setting in the environment: {', '.join(_PREFIX + name for name in unknown)}",
        expected=f"perhaps {', '.join(_PREFIX + name for name in sorted(near))}"
        if near
        else "`superposed config show` lists them",
    )


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError("there is no such configuration file", received=str(file))
    try:
        values = TomlConfigSettingsSource(Settings, file)()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a TOML file", received=str(error)) from None
    unknown = sorted(set(values) - set(Settings.model_fields))
    if unknown:
        near = {
            found for name in unknown for found in difflib.get_close_matches(name, Settings.model_fields, n=1)
        }
        raise ConfigError(
            f"{file}: no such setting: {', '.join(unknown)}",
            expected=f"perhaps {', '.join(sorted(near))}" if near else "`superposed config show` lists them",
        )
    return values
