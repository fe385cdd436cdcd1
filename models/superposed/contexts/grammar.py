"""Reading context expressions from text and from JSON.

Text grammar (one grammar for HTTP, the V2 model name, the SDK and the command line)::

    expression = primary { "^" number }
    primary    = [ group "/" ] key | "mix(" part { "," part } ")"
    part       = expression ":" weight

for example `digits`, `digits/u42`, `mix(a:0.7,b:0.3)`, `rot^1.25`, `mix(a:0.5,rot^2:0.5)`. The JSON form
is `{"task": key}`, `{"mixture": [{"context": ..., "weight": ...}]}` and
`{"power": {"context": ..., "exponent": ...}}`, where every context may also be text.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from superposed.contexts.expression import MAX_DEPTH, MAX_LEAVES, Expression, Mixture, Power, Task
from superposed.contexts.keys import KEY_PATTERN
from superposed.errors import ExpressionInvalid, redacted

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
