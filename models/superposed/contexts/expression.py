"""Context expressions: a task, a mixture of contexts, or a real power of one.

`superposed.contexts.grammar` reads them from text and JSON.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from superposed.contexts.keys import KEY_PATTERN
from superposed.errors import ExpressionInvalid

MAX_DEPTH = 4
MAX_EXPONENT = 64.0
MAX_LEAVES = 64
RESERVED_KEYS = frozenset({"auto", "mix", "stats"})


def check_key(key: str) -> str:
    """Return a task key; raise `ExpressionInvalid` for other characters, the wrong length, or a reserved word."""
    if not KEY_PATTERN.fullmatch(key):
        raise ExpressionInvalid("not a task key", expected=KEY_PATTERN.pattern, received=repr(key[:200]))
    if key in RESERVED_KEYS:
        expected = f"not one of {sorted(RESERVED_KEYS)}"
        raise ExpressionInvalid("a reserved word cannot be a task key", expected=expected, received=key)
    return key


def check_number(value: object, name: str) -> float:
    """Return a value as a float; raise `ExpressionInvalid` where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionInvalid(f"{name} is no number", expected="a finite number", received=repr(value)[:200])
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ExpressionInvalid(f"{name} is not finite", expected="a finite number", received=number)
    return number


@dataclass(frozen=True)
class Task:
    """The context of one task; where the expression names its group too (`group/key`), that must be the task's."""

    key: str
    group: str | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.group is not None:
            check_key(self.group)

    @classmethod
    def named(cls, text: str) -> "Task":
        """Return the task of a key, or of `group/key`; raises as `check_key`."""
        group, slash, key = text.rpartition("/")
        return cls(key, group if slash else None)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"task": str(self)}

    def __str__(self) -> str:
        return self.key if self.group is None else f"{self.group}/{self.key}"


@dataclass(frozen=True)
class Mixture:
    """A weighted mixture of contexts.

    Args:
        parts: Pairs of an expression and a positive finite weight, at least one. The weights are
            normalised to sum 1.

    Raises:
        ExpressionInvalid: No parts, or more than `MAX_LEAVES` multiplied out, a weight that is not positive
            and finite, or nested too deep.
    """

    parts: tuple[tuple["Expression", float], ...]

    def __init__(self, parts: Sequence[tuple["Expression", float]]) -> None:
        if not 1 <= len(parts) <= MAX_LEAVES:
            expected = f"1 to {MAX_LEAVES}"
            raise ExpressionInvalid("a mixture has the wrong number of parts", expected=expected, received=len(parts))
        weights = [check_number(weight, "a mixture's weight") for _, weight in parts]
        if min(weights) <= 0:
            raise ExpressionInvalid("a mixture's weight is not positive", expected="> 0", received=min(weights))
        # Weights that already sum to 1 stay as they are, so that text and JSON come back unchanged.
        largest = max(weights)
        scaled = math.fsum(weight / largest for weight in weights)
        if not math.isclose(scaled * largest, 1.0, rel_tol=1e-12):
            weights = [weight / largest / scaled for weight in weights]
        if min(weights) <= 0:
            problem = "a mixture's weight vanishes beside the others"
            raise ExpressionInvalid(problem, expected="> 0 after normalising", received=0.0)
        named = tuple((part, weight) for (part, _), weight in zip(parts, weights, strict=True))
        object.__setattr__(self, "parts", named)
        _check_depth(self)
        count = len(_leaves(self, 1.0, None))  # of named tasks, with repetition
        if count > MAX_LEAVES:  # at once: what cannot be used is not built any further
            problem = "a context expression names too many tasks"
            raise ExpressionInvalid(problem, expected=f"{MAX_LEAVES} at most", received=count)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"mixture": [{"context": part.to_json(), "weight": weight} for part, weight in self.parts]}

    def __str__(self) -> str:
        return "mix(" + ",".join(f"{part}:{weight!r}" for part, weight in self.parts) + ")"


@dataclass(frozen=True)
class Power:
    """A real power of a context, between -64 and 64.

    Raises:
        ExpressionInvalid: The exponent is out of range, or the expression is nested too deep.
    """

    base: "Expression"
    exponent: float

    def __post_init__(self) -> None:
        exponent = check_number(self.exponent, "an exponent")
        if abs(exponent) > MAX_EXPONENT:
            expected = f"between -{MAX_EXPONENT:g} and {MAX_EXPONENT:g}"
            raise ExpressionInvalid("an exponent is too large", expected=expected, received=exponent)
        object.__setattr__(self, "exponent", exponent)
        _check_depth(self)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"power": {"context": self.base.to_json(), "exponent": self.exponent}}

    def __str__(self) -> str:
        return f"{self.base}^{self.exponent!r}"


Expression: TypeAlias = Task | Mixture | Power


def _depth(expression: Expression) -> int:
    """Return the nesting depth of compositions; 0 for a task."""
    if isinstance(expression, Task):
        return 0
    parts = [expression.base] if isinstance(expression, Power) else [part for part, _ in expression.parts]
    return 1 + max(map(_depth, parts))


def _check_depth(expression: Expression) -> None:
    if (depth := _depth(expression)) > MAX_DEPTH:
        expected = f"depth {MAX_DEPTH} at most"
        raise ExpressionInvalid("a context expression is nested too deep", expected=expected, received=depth)


@dataclass(frozen=True)
class Leaf:
    """One task's share after mixtures and powers have been multiplied out.

    `exponent` is None where no power stands above the task, `group` where the expression names none.
    """

    key: str
    weight: float
    exponent: float | None
    group: str | None = None


def flatten(expression: Expression) -> tuple[Leaf, ...]:
    """Push mixtures and powers down to the tasks: the linear form that every family evaluates.

    Mixing averages generators and a power multiplies them, so an expression *is* the sum over its
    tasks of weight x exponent x generator. Nothing is wrapped or re-logged between operations, and two
    expressions with the same leaves are the same context. Leaves stand in the order they are written.

    Raises:
        ExpressionInvalid: Nested exponents whose product is too large, or weights whose product vanishes.
    """
    leaves = tuple(_leaves(expression, 1.0, None))
    if min(leaf.weight for leaf in leaves) <= 0:
        raise ExpressionInvalid("a nested mixture's weight vanishes", expected="> 0", received=0.0)
    steepest = max(abs(leaf.exponent or 0.0) for leaf in leaves)
    if steepest > MAX_EXPONENT:
        problem = "the product of nested exponents is too large"
        raise ExpressionInvalid(problem, expected=f"{MAX_EXPONENT:g} at most", received=steepest)
    return leaves


def _leaves(expression: Expression, weight: float, exponent: float | None) -> list[Leaf]:
    if isinstance(expression, Task):
        return [Leaf(expression.key, weight, exponent, expression.group)]
    if isinstance(expression, Power):
        below = expression.exponent * (1.0 if exponent is None else exponent)
        return _leaves(expression.base, weight, below)
    return [leaf for part, share in expression.parts for leaf in _leaves(part, weight * share, exponent)]
