"""Plain settings: one step an update, nothing kept, no expansion, as the first release had by default.

For benchmarks and tests whose subject is neither, and whose figures were measured so.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from superposed.config import StoreConfig

__all__ = ["plain_config"]

_PLAIN: dict[str, dict[str, Any]] = {
    "network": {"hidden": (256, 256, 256), "activation": "relu", "expansion": 1},
    "optimizer": {"name": "rmsprop", "learning_rate": 3e-5, "steps": 1},
    "rehearsal": {"rows_per_task": 0, "own_ratio": 0.0, "least_rows": 0, "logit_share": 0.0},
}


def plain_config(**settings: Any) -> StoreConfig:
    """Return the plain settings, and over them those that were given by name, nested ones too."""
    values: dict[str, Any] = {"preset": None, **settings}
    for name, plain in _PLAIN.items():
        given = settings.get(name, {})
        given = (
            given.model_dump(exclude_unset=True) | {"kind": getattr(given, "kind", None)}
            if isinstance(given, BaseModel)
            else dict(given)
        )
        if given.get("kind") is None:
            given.pop("kind", None)
        other = name == "network" and given.get("kind", "mlp") != "mlp"
        values[name] = given if other else {**plain, **given}
    return StoreConfig.model_validate(values)
