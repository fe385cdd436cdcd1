from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superposed.contexts.expression import (
    MAX_DEPTH,
    Expression,
    Leaf,
    Mixture,
    Power,
    Task,
    as_expression,
    flatten,
    parse,
)
from superposed.errors import ExpressionInvalid

KEYS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True).filter(
    lambda key: key not in {"auto", "mix", "stats"}
)
WEIGHTS = st.floats(min_value=1e-6, max_value=1e6)
EXPONENTS = st.floats(min_value=-2, max_value=2)


def expressions(depth: int) -> st.SearchStrategy[Expression]:
    if depth == 0:
        return st.builds(Task, KEYS)
    below = expressions(depth - 1)
    return st.one_of(
        st.builds(Task, KEYS),
        st.builds(Power, below, EXPONENTS),
        st.builds(Mixture, st.lists(st.tuples(below, WEIGHTS), min_size=1, max_size=2)),
    )


@given(expressions(MAX_DEPTH))
def test_text_and_json_come_back_unchanged(expression: Expression) -> None:
    assert parse(str(expression)) == expression
    assert as_expression(json.loads(json.dumps(expression.to_json()))) == expression


@given(expressions(3))
def test_flattened_weights_sum_to_one(expression: Expression) -> None:
    assert math.isclose(sum(leaf.weight for leaf in flatten(expression)), 1.0, rel_tol=1e-9)


@settings(max_examples=300)
@given(st.text(alphabet="ab.mix():,^0123e+- ", max_size=30))
def test_any_text_is_read_or_refused_with_a_reason(text: str) -> None:
    try:
        expression = parse(text)
    except ExpressionInvalid:
        return
    assert parse(str(expression)) == expression


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["task", "mixture", "power", "context", "weight", "exponent"]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        expression = as_expression(value)
    except ExpressionInvalid:
        return
    assert as_expression(expression.to_json()) == expression


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", Task("digits")),
        ("mix(a:0.7,b:0.3)", Mixture([(Task("a"), 0.7), (Task("b"), 0.3)])),
        ("rot^1.25", Power(Task("rot"), 1.25)),
        ("mix(a:0.5,rot^2:0.5)", Mixture([(Task("a"), 0.5), (Power(Task("rot"), 2), 0.5)])),
        ("a.b-c_d^-3e-1", Power(Task("a.b-c_d"), -0.3)),
        ("a^2^.5", Power(Power(Task("a"), 2), 0.5)),
        ("mix(a:1)^2", Power(Mixture([(Task("a"), 1)]), 2)),
        ("mixer", Task("mixer")),
    ],
)
def test_grammar(text: str, expected: Expression) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "character 1"),
        ("a b", "character 2"),
        ("-a", "character 1"),
        ("mix()", "character 5"),
        ("mix(a)", "weight"),
        ("mix(a:x)", "number"),
        ("mix(a:1", "character 8"),
        ("mix(a:0)", "not positive"),
        ("mix(a:-1)", "not positive"),
        ("mix(a:1e999)", "not finite"),
        ("mix(a:1e300,b:1e-300)", "vanishes"),
        ("mix(mix(a:1e-300,b:1):1e-300,c:1)", "vanishes"),
        ("a^65", "too large"),
        ("a^9^9", "product of nested exponents"),
        ("a^nan", "number"),
        ("a^1^1^1^1^1", "too deep"),
        ("mix", "reserved"),
        ("auto", "reserved"),
        ("mix(" * 6 + "a" + ":1)" * 6, "too deep"),
        ("x" * 129, "character 129"),
        ("mix(" + ",".join(f"k{n}:1" for n in range(65)) + ")", "number of parts"),
        ("x" * 20_000, "too long"),
    ],
)
def test_refusals_say_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ExpressionInvalid, match=reason):
        flatten(parse(text))


def test_too_many_tasks_in_all() -> None:
    part = "mix(" + ",".join(f"k{n}:1" for n in range(40)) + ")"
    with pytest.raises(ExpressionInvalid, match="too many tasks"):
        flatten(parse(f"mix({part}:1,{part}:1)"))


def test_what_is_too_large_is_not_read_to_its_end() -> None:
    """A body of many megabytes must not become millions of objects before it is refused."""

    class Endless(Sequence[object]):
        read = 0

        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, place: int) -> object:  # type: ignore[override]
            self.read += 1
            return {"context": "mix(" + ",".join(["a:1"] * 60) + ")", "weight": 1}

    parts = Endless()
    with pytest.raises(ExpressionInvalid):
        as_expression({"mixture": parts})
    assert parts.read <= 65
    nested: object = {"mixture": [{"context": "mix(a:1,b:1)", "weight": 1}] * 40}
    with pytest.raises(ExpressionInvalid, match="too many tasks"):
        as_expression(nested)


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        {},
        {"task": 3},
        {"task": "a", "power": {}},
        {"mixture": "ab"},
        {"mixture": []},
        {"mixture": [{"context": "a"}]},
        {"mixture": [{"context": "a", "weight": True}]},
        {"mixture": [{"context": "a", "weight": "1"}]},
        {"mixture": [{"context": "a", "weight": 1, "x": 1}]},
        {"power": {"context": "a"}},
        {"power": {"context": "a", "exponent": float("nan")}},
        {"power": {"context": "a", "exponent": 10**400}},
        {"sum": []},
    ],
)
def test_other_json_is_refused(value: object) -> None:
    with pytest.raises(ExpressionInvalid):
        as_expression(value)


def test_exponent_of_more_digits_than_python_prints_is_refused() -> None:
    with pytest.raises(ExpressionInvalid, match="not finite"):
        as_expression({"power": {"context": "a", "exponent": 10**5000}})


def test_json_may_hold_text_and_is_bounded_in_depth() -> None:
    assert as_expression({"power": {"context": "mix(a:1,b:1)", "exponent": 2}}) == parse("mix(a:1,b:1)^2")
    nested: object = "a"
    for _ in range(40):
        nested = {"power": {"context": nested, "exponent": 1}}
    with pytest.raises(ExpressionInvalid, match="too deep"):
        as_expression(nested)


def test_weights_are_normalised_and_written_as_they_are_meant() -> None:
    assert [weight for _, weight in Mixture([(Task("a"), 2), (Task("b"), 6)]).parts] == [0.25, 0.75]
    assert str(parse("mix(a:0.7,b:0.3)")) == "mix(a:0.7,b:0.3)"
    huge = Mixture([(Task("a"), 1e308), (Task("b"), 1e308)])
    assert [weight for _, weight in huge.parts] == [0.5, 0.5]


def test_flatten_multiplies_weights_and_exponents_out() -> None:
    assert flatten(parse("mix(a:0.5,mix(b:0.5,c^3:0.5)^2:0.5)")) == (
        Leaf("a", 0.5, None),
        Leaf("b", 0.25, 2.0),
        Leaf("c", 0.25, 6.0),
    )
