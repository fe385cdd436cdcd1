"""Provenance of every result file: how it was made, where it goes, and whose it is."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from superposed.config import Config, validated
from superposed.errors import ConfigError

__all__ = ["check_settings", "machine", "write_json"]


def machine() -> dict[str, Any]:
    """Return the hardware and the versions that a figure was measured with."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "superposed": version("superposed"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a result file that diffs well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def check_settings(path: Path, config: Config) -> None:
    """Refuse a result that stands where a configuration's would go, but is another's.

    Raises:
        ConfigError: It was made with other settings.
    """
    made_with, wanted = json.loads(path.read_text())["config"], config.model_dump(mode="json")
    if validated(type(config), made_with) != config:
        raise ConfigError(
            f"{path.name} was made with other settings",
            expected="another folder for the results (--results), or --again, which overwrites it",
            received={name: value for name, value in made_with.items() if wanted.get(name) != value},
        )
