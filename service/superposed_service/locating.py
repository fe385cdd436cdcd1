"""Finding the context of rows for a request: which candidates are tried, and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from superposed.contexts import as_expression
from superposed.locating import locate, locate_exponent
from superposed.store import WeightStore
from superposed_service.schemas import LocateBody

__all__ = ["AUTO", "find_context"]

# The context of a request that leaves it to the service to find one.
AUTO = "auto"


def find_context(
    body: LocateBody, store: WeightStore, *, may_name: Callable[[str], bool], most: int
) -> dict[str, Any]:
    """The body of `POST /v1/locate`'s answer. The engine's thread only.

    Args:
        body: What is asked.
        store: Answers.
        may_name: Which tasks are candidates where the body names none.
        most: How many answers, rows times candidates, may be computed.

    Raises:
        SuperposedError: As `superposed.locating.locate`.
    """
    if body.exponent_of is not None:
        cyclic = store.config.family == "cyclic"
        exponents = body.exponents or (0.0, 1.0 if cyclic else 4.0)
        found = locate_exponent(
            store, body.inputs, body.targets, key=body.exponent_of, exponents=exponents, most=most
        )
        return asdict(found)
    if body.candidates is not None:
        candidates = [str(as_expression(one)) for one in body.candidates]
    else:
        candidates = _all_tasks(store, may_name, labelled=body.targets is not None)
    return asdict(locate(store, body.inputs, body.targets, candidates=candidates, most=most))


def _all_tasks(store: WeightStore, may_name: Callable[[str], bool], *, labelled: bool) -> list[str]:
    """Every task that may be named; without targets only those whose answers have an energy."""
    schemas = [state.schema for state in store.tasks.all()]
    return [
        schema.key
        for schema in schemas
        if may_name(schema.key) and (labelled or schema.loss == "cross_entropy")
    ]
