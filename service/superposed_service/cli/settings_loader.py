"""From a file, the environment and flags to the settings, and where each value came from."""

import difflib
import os
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from superposed.errors import ConfigError
from superposed_service.settings import Settings

# Names the file where no flag does.
CONFIG_VARIABLE = "SUPERPOSED_CONFIG"
_PREFIX = "SUPERPOSED_"


def configure(file: Path | None = None, **flags: object) -> tuple[Settings, Mapping[str, str]]:
    """Return defaults, over them a TOML file, over it the environment, over it the flags.

    The default of `file` is what `SUPERPOSED_CONFIG` names, if anything. A flag of None is one that was not given.
    With the settings comes where each value came from: `default`, `file …`, `environment …` or `flag`. Raise
    `ConfigError` for a setting that is wrong or unknown: it says where that came from, and what was expected.
    """
    # Variables that look like settings and are none are refused: a misspelt limit would be no limit.
    names = {name.upper() for name in os.environ}
    given = {name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)} - _OTHER_VARIABLES
    _check_names("the environment", {name.lower() for name in given}, lambda name: _PREFIX + name.upper())
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
        origins |= {name: f"{origin} {_PREFIX}{name.upper()}" if origin == "environment" else origin for name in layer}
    try:
        # All are given by name, so that the environment is not asked again.
        return Settings(**values), origins
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, origin = ".".join(map(str, first["loc"])), origins[str(first["loc"][0])]
        text = f"setting {name} ({origin}): {first['msg']}"
        raise ConfigError(text, received=repr(first["input"])[:100]) from None


# Settings of earlier releases: the name now, or None where the setting is gone.
RENAMED: Mapping[str, str | None] = {
    "answer_timeout_s": "response_timeout_s",
    "erased_snapshots_s": "erased_snapshot_retention_s",
    "guard_action": "poison_action",
    "guard_interval": "poison_interval_steps",
    "guard_rise": "poison_threshold",
    "http_workers": None,
    "idle_consolidation_s": None,
    "idempotency_s": "idempotency_retention_s",
    "max_held_bytes": "max_inflight_bytes",
    "max_row_numbers": "max_row_values",
    "max_tries": "max_candidate_evaluations",
    "refusal_pause_ms": "rejection_delay_ms",
    "refusals_per_s": "rejections_per_s",
}

# Variables with the prefix that are no settings: the client's key, data sets, and this file's name.
_OTHER_VARIABLES = frozenset({"API_KEY", "CLUSTER", "CONFIG", "DATA_DIR", "URL"})


def _check_names(place: str, given: Collection[str], shown: Callable[[str], str] = str) -> None:
    """Raise `ConfigError` for names that are no settings, with the new name of a renamed one."""
    unknown = sorted(set(given) - set(Settings.model_fields))
    if not unknown:
        return
    for old in RENAMED.keys() & set(unknown):
        now = RENAMED[old]
        text = f"{place}: setting {shown(old)} was {'removed' if now is None else 'renamed'}"
        raise ConfigError(text, expected=f"no {shown(old)}" if now is None else shown(now))
    near = {one for name in unknown for one in difflib.get_close_matches(name, Settings.model_fields, n=1)}
    advice = f"perhaps {', '.join(map(shown, sorted(near)))}" if near else "`superposed config show` lists them"
    raise ConfigError(f"{place}: no such setting: {', '.join(map(shown, unknown))}", expected=advice)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError("there is no such configuration file", received=str(file))
    try:
        values = TomlConfigSettingsSource(Settings, file)()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a TOML file", received=str(error)) from None
    _check_names(str(file), values)
    return values
