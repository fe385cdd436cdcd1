"""Contexts: derivation from keys, one module a family, expressions, and the table of materialised rows."""

from typing import Any

from superposed.contexts.binary import Binary
from superposed.contexts.expanded import Expanded, expanded
from superposed.contexts.expression import Leaf, Mixture, Power, Task, as_expression, check_key, flatten, parse
from superposed.contexts.family import Family, Term
from superposed.contexts.keys import DERIVATION_VERSION, Stream, TaskId, seeded_secret
from superposed.contexts.phase import Complex, Cyclic, Phase
from superposed.contexts.rotation import Rotation
from superposed.contexts.table import Binding, Context, ContextSource, ContextTable
from superposed.errors import ConfigError

__all__ = ["DERIVATION_VERSION", "FAMILIES", "Expanded", "Family", "Stream", "Term", "expanded", "family_named"]
__all__ += ["Leaf", "Mixture", "Power", "Task", "as_expression", "check_key", "flatten", "parse"]
__all__ += ["Binding", "Context", "ContextSource", "ContextTable", "TaskId", "seeded_secret"]

FAMILIES: dict[str, type[Family[Any]]] = {family.name: family for family in (Phase, Binary, Complex, Cyclic, Rotation)}


def family_named(name: str) -> Family[Any]:
    """Return the family of that name; raise `ConfigError` where there is none."""
    if name not in FAMILIES:
        raise ConfigError("no such context family", expected=f"one of {sorted(FAMILIES)}", received=name)
    return FAMILIES[name]()
