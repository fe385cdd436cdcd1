"""Finding the context of rows for a request: candidates, and the answer."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from superposed.analysis.task_inference import EXPONENT_EVALUATIONS, check_evaluations, locate, locate_exponent
from superposed.contexts import as_expression
from superposed.store.store import WeightStore
from superposed_service.api.v1.schemas import LocateBody
from superposed_service.changes.rows import RowBatch

# The context of a request that leaves it to the service to find one.
AUTO = "auto"


def all_tasks(body: LocateBody, encoder: str | None, may_name: Callable[[str], bool], store: WeightStore) -> list[str]:
    """Return the candidates of a body that names none: every task that may be named and takes such rows.

    Rows that an encoder made fit its tasks only. Without targets the candidates are only those whose answers
    have an energy. The engine's thread only.
    """
    width, records = _width(body.rows), body.records is not None
    schemas = [state.schema for state in store.tasks.all()]
    return [
        schema.key
        for schema in schemas
        if (schema.kind == "records") == records
        and (records or schema.inputs == width)
        and encoder in {None, schema.encoder}
        and may_name(schema.key)
        and (body.targets is not None or schema.loss == "cross_entropy")
    ]


def named(body: LocateBody) -> list[str]:
    """Return the candidates that a body names, each once; raises `ContextError` where one is no context."""
    return list(dict.fromkeys(str(as_expression(one)) for one in body.candidates or ()))


def _width(inputs: Any) -> int:
    """Return the length of the first row; -1 where it is no row."""
    try:
        return len(inputs[0])
    except (TypeError, IndexError):
        return -1


def tries(body: LocateBody, candidates: Sequence[str], most: int) -> int:
    """Return the number of candidate evaluations; raises `CapacityExceeded` where it is above `most`."""
    count = EXPONENT_EVALUATIONS if body.exponent_of is not None else len(candidates)
    wanted = len(RowBatch(None, None, body.rows)) * count
    check_evaluations(wanted, most)
    return wanted


def find_context(body: LocateBody, candidates: Sequence[str], store: WeightStore, *, most: int) -> dict[str, Any]:
    """Return the body of `POST /v1/locate`'s answer; raises as `superposed.analysis.task_inference.locate`.

    The candidates are tried unless the body asks for powers of a task. At most `most` answers, rows times
    candidates, are computed. The engine's thread only.
    """
    if body.exponent_of is not None:
        cyclic = store.config.family == "cyclic"
        exponents = body.exponents or (0.0, 1.0 if cyclic else 4.0)
        found = locate_exponent(store, body.rows, body.targets, key=body.exponent_of, exponents=exponents, most=most)
        return asdict(found)
    if body.candidates is None:  # a task may have gone since they were listed
        candidates = [key for key in candidates if key in store.tasks]
    return asdict(locate(store, body.rows, body.targets, candidates=candidates, most=most))
