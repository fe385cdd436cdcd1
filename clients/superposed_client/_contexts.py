"""Contexts composed in Python: a task, a mixture, a real power; checked by the server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Context:
    """A composed context in the API's JSON form, made by `task`, `mixture` and `power`. It is not changed."""

    form: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash(repr(self.form))


ContextLike: TypeAlias = str | Context


def context_form(context: ContextLike) -> Any:
    """Return the wire form of a context: text as it is, a composed context as JSON."""
    return context if isinstance(context, str) else context.form


def task(key: str) -> Context:
    """Return the context of one task."""
    return Context({"task": key})


def mixture(parts: Mapping[Any, float] | Sequence[tuple[ContextLike, float]]) -> Context:
    """Return a weighted mixture of contexts; the server normalises the weights.

    Args:
        parts: Weights by task key, text expression or context; or pairs of a context and a weight.

    Example:
        >>> mixture({"a": 0.7, "b": 0.3}).form["mixture"][0]
        {'context': 'a', 'weight': 0.7}
    """
    pairs = list(parts.items()) if isinstance(parts, Mapping) else list(parts)
    return Context({"mixture": [{"context": context_form(part), "weight": float(weight)} for part, weight in pairs]})


def power(context: ContextLike, exponent: float) -> Context:
    """Return a real power of a context.

    Example:
        >>> power("rot", 1.25).form
        {'power': {'context': 'rot', 'exponent': 1.25}}
    """
    return Context({"power": {"context": context_form(context), "exponent": float(exponent)}})
