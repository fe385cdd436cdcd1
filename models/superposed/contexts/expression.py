"""Context expressions: a task, a mixture of contexts, or a real power of one.

Text grammar (one grammar for HTTP, the V2 model name, the SDK and the command line)::

    expression = primary { "^" number }
    primary    = [ group "/" ] key | "mix(" part { "," part } ")"
    part       = expression ":" weight

for example `digits`, `digits/u42`, `mix(a:0.7,b:0.3)`, `rot^1.25`, `mix(a:0.5,rot^2:0.5)`. The JSON form
is `{"task": key}`, `{"mixture": [{"context": ..., "weight": ...}]}` and
`{"power": {"context": ..., "exponent": ...}}`, where every context may also be text.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from superposed.contexts.keys import KEY_PATTERN
from superposed.errors import ExpressionInvalid, redacted

MAX_DEPTH = 4
MAX_EXPONENT = 64.0
MAX_LEAVES = 64
RESERVED_KEYS = frozenset({"auto", "mix", "stats"})


def check_key(key: str) -> str:
    """Return a task key; raise `ExpressionInvalid` for other characters, the wrong length, or a reserved word."""
    if not KEY_PATTERN.fullmatch(key):
        raise ExpressionInvalid("not a task key", expected=KEY_PATTERN.pattern, received=repr(key[:200]))
    if key in RESERVED_KEYS:
        expected = f"a task's name; {', '.join(sorted(RESERVED_KEYS))} mean something else"
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
        parts: Pairs of an expression and a positive finite weight, at least one. The weights are normalised to sum 1.

    Raise `ExpressionInvalid` for no parts, or more than `MAX_LEAVES` multiplied out, a weight that is not positive
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
    """A real power of a context, between -64 and 64; raise `ExpressionInvalid` for others, and for too deep nesting."""

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

    Mixing averages generators and a power multiplies them, so an expression *is* the sum over its tasks of weight x
    exponent x generator. Nothing is wrapped or re-logged between operations, and two expressions with the same leaves
    are the same context. Leaves stand in the order they are written. Raise `ExpressionInvalid` for nested exponents
    whose product is too large, or weights whose product vanishes.
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


MAX_TEXT = 16_384

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def as_expression(value: object) -> Expression:
    """Read a context: an expression, its text, or its JSON form; raise `ExpressionInvalid` for anything else."""
    return _from_json(value, MAX_DEPTH)


def _from_json(value: object, depth_left: int) -> Expression:
    if isinstance(value, Task | Mixture | Power):
        return value
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, Mapping) and len(value) == 1:
        [(kind, body)] = value.items()
        if kind == "task" and isinstance(body, str):
            return Task.named(body)
        if depth_left <= 0:
            raise ExpressionInvalid("a context expression is nested too deep", expected=f"depth {MAX_DEPTH} at most")
        if kind == "mixture" and isinstance(body, Sequence) and not isinstance(body, str):
            # One part more than the most is refused, and so no further one need be read.
            parts = [_fields(part, "context", "weight") for part in islice(body, MAX_LEAVES + 1)]
            return Mixture([(_from_json(context, depth_left - 1), weight) for context, weight in parts])
        if kind == "power":
            base, exponent = _fields(body, "context", "exponent")
            return Power(_from_json(base, depth_left - 1), exponent)
    expected = 'text, {"task": key}, {"mixture": [...]} or {"power": {...}}'
    raise ExpressionInvalid("not a context", expected=expected, received=redacted(value))


def _fields(body: object, *names: str) -> tuple[Any, ...]:
    if not isinstance(body, Mapping) or set(body) != set(names):
        problem = "part of a context has the wrong fields"
        raise ExpressionInvalid(problem, expected=f"exactly {list(names)}", received=redacted(body))
    return tuple(body[name] for name in names)


def parse(text: str) -> Expression:
    """Read the text grammar; `ExpressionInvalid` says where a text stops being an expression, and what was expected."""
    if len(text) > MAX_TEXT:
        expected = f"{MAX_TEXT} characters at most"
        raise ExpressionInvalid("a context expression is too long", expected=expected, received=len(text))
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def whole(self) -> Expression:
        result = self._expression(MAX_DEPTH)
        if self._at != len(self._text):
            raise self._error("the end, '^', ',' or ':'")
        return result

    def _expression(self, depth_left: int) -> Expression:
        result = self._primary(depth_left)
        while self._take("^"):
            result = Power(result, float(self._read(_NUMBER, "a number")))
        return result

    def _primary(self, depth_left: int) -> Expression:
        if not self._take("mix("):
            first = self._read(KEY_PATTERN, "a task key or mix(...)")
            return Task(self._read(KEY_PATTERN, "a task key"), group=first) if self._take("/") else Task(first)
        if depth_left <= 0:
            raise ExpressionInvalid("a context expression is nested too deep", expected=f"depth {MAX_DEPTH} at most")
        parts = [self._part(depth_left - 1)]
        while self._take(","):
            parts.append(self._part(depth_left - 1))
        if not self._take(")"):
            raise self._error("',' or ')'")
        return Mixture(parts)

    def _part(self, depth_left: int) -> tuple[Expression, float]:
        part = self._expression(depth_left)
        if not self._take(":"):
            raise self._error("':' and a weight")
        return part, float(self._read(_NUMBER, "a number"))

    def _read(self, pattern: re.Pattern[str], expected: str) -> str:
        if (match := pattern.match(self._text, self._at)) is None:
            raise self._error(expected)
        self._at = match.end()
        return match.group()

    def _take(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True

    def _error(self, expected: str) -> ExpressionInvalid:
        rest = self._text[self._at : self._at + 40]
        return ExpressionInvalid(
            f"not a context expression at character {self._at + 1}", expected=expected, received=repr(rest)
        )
