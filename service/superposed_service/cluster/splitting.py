"""Requests about several cells: what each cell is sent of one, and how their answers are joined."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from starlette.responses import Response

from superposed.errors import ShapeError
from superposed_service.api.tensors import HEAD_LENGTH, TENSORS_MEDIA_TYPE
from superposed_service.api.v1 import codec
from superposed_service.api.v2 import messages
from superposed_service.changes.rows import RowBatch
from superposed_service.cluster.cell import Call
from superposed_service.cluster.merging import Answers, merged, tokens

ROWS = ("inputs", "records", "texts", "images")
Places = Mapping[str, Sequence[int]]  # by cell: which rows, or tasks, of the request are its own


@dataclass(frozen=True)
class Split:
    """The part of a request that each cell is sent, and how their answers are joined."""

    part: Callable[[Sequence[int]], Call]
    join: Callable[[Answers, Places], Response]


def split_rows(call: Call, body: Mapping[str, Any]) -> Split:
    """Split `POST /v1/infer`, whose body has a context for each row; raise `ShapeError` where it has not."""
    [kind] = [name for name in ROWS if name in body]
    _check_count(len(RowBatch(None, None, body[kind])), len(body["contexts"]))

    def part(places: Sequence[int]) -> Call:
        own = {name: [body[name][place] for place in places] for name in ("contexts", kind)}
        return call.with_json(codec.dump({**body, **own}))

    def join(answers: Answers, places: Places) -> Response:
        columns: dict[str, Any] = {}
        for cell, answer in answers.items():
            for name, values in orjson.loads(answer.content).items():
                if not isinstance(values, list):
                    columns[name] = max(columns.get(name, values), values)
                    continue
                column = columns.setdefault(name, [None] * len(body["contexts"]))
                for place, value in zip(places[cell], values, strict=True):
                    column[place] = value
        if TENSORS_MEDIA_TYPE not in call.headers.get("accept", ""):
            return merged(answers, columns)
        content, length = codec.dump_tensors(columns)
        return Response(content, 200, {HEAD_LENGTH: str(length), **tokens(answers)}, TENSORS_MEDIA_TYPE)

    return Split(part, join)


def split_tensors(call: Call, body: bytes, head_length: str | None) -> tuple[Sequence[object], Split]:
    """Split `POST /v2/models/{model}/infer`, whose body has a context for each row; return these, and how.

    Raise `InvalidRequest` for what is no such body, `ShapeError` where there are not as many contexts as rows.
    """
    head, tensors = messages.read_tensors(body, head_length, "inputs")
    rows = messages.rows_of("", tensors)
    contexts = rows.contexts or ()
    _check_count(len(rows), len(contexts))
    wanted, binary = messages.outputs_wanted(head)
    asked = {"outputs": [{"name": name} for name in wanted or ()], "parameters": {"binary_data_output": True}}

    def part(places: Sequence[int]) -> Call:
        own = {name: one.reshape(-1) if one.dtype == object else one for name, one in tensors.items()}
        columns = [messages.Column(name, one[list(places)], binary=True) for name, one in own.items()]
        content, length = messages.dump_tensors({"id": head.get("id"), **asked}, "inputs", columns)
        return call.with_json(content, **{HEAD_LENGTH: str(length), "content-type": "application/octet-stream"})

    def join(answers: Answers, places: Places) -> Response:
        several = {
            cell: messages.read_tensors(one.content, one.headers[HEAD_LENGTH], "outputs")
            for cell, one in answers.items()
        }
        answered, given = next(iter(several.values()))
        columns = []
        for name in (name for name in given if all(name in found for _, found in several.values())):
            parts = {cell: found[name] for cell, (_, found) in several.items()}
            shape = len(contexts), *max(one.shape[1:] for one in parts.values())
            column = np.zeros(shape, given[name].dtype)  # of a task with fewer outputs the others are 0
            for cell, one in parts.items():
                column[np.ix_(places[cell], *map(range, one.shape[1:]))] = one
            columns.append(messages.Column(name, column, (wanted or {}).get(name, binary)))
        content, length = messages.dump_tensors(answered, "outputs", columns)
        head_length = {HEAD_LENGTH: str(length)} if length else {}
        kind = "application/octet-stream" if length else "application/json"
        return Response(content, 200, tokens(answers) | head_length, kind)

    return contexts, Split(part, join)


def split_interference(call: Call, keys: Sequence[str]) -> Split:
    """Split `GET /v1/interference`: tasks of two cells share no weights, so they have no overlap and no crosstalk."""

    def join(answers: Answers, places: Places) -> Response:
        found: dict[str, list[Any]] = {name: [None] * len(keys) for name in ("overlap", "crosstalk")}
        for cell, answer in answers.items():
            for name, square in found.items():
                for place, line in zip(places[cell], answer.json()[name], strict=True):
                    own = dict(zip(places[cell], line or (), strict=False))
                    square[place] = line and [own.get(other, 0.0) for other in range(len(keys))]
        return merged(answers, {"tasks": keys, **found})

    return Split(lambda own: replace(call, query="tasks=" + quote(",".join(keys[place] for place in own))), join)


def _check_count(received: int, expected: int) -> None:
    if received != expected:
        raise ShapeError("as many rows as contexts are needed", expected=expected, received=received)
