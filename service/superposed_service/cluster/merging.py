"""One answer from those of several cells."""

import base64
import math
import re
from collections.abc import Mapping

from starlette.responses import Response

from superposed_service.api.v1 import codec
from superposed_service.cluster.cell import CONNECTION, TOKEN, Answer

_DROPPED = CONNECTION | {"date"}
_MOST_SHOWN = 100
_SAMPLE = re.compile(rb"^([a-zA-Z_:][\w:]*)(\{)?", re.MULTILINE)

Answers = Mapping[str, Answer]  # by cell


def passed_on(answer: Answer) -> Response:
    """Return a cell's answer as it is."""
    response = Response(answer.content, answer.status_code)
    named = [(name.lower(), value) for name, value in answer.headers.items()]
    kept = [(name.encode(), value.encode()) for name, value in named if name not in _DROPPED]
    lengths = [pair for pair in response.raw_headers if pair[0] == b"content-length"]
    response.raw_headers = kept + lengths
    return response


def first(answers: Answers) -> Response:
    """Return the first cell's answer: all have done the same."""
    return passed_on(next(iter(answers.values())))


def merged(answers: Answers, value: object) -> Response:
    """Return JSON, with the tokens of all answers."""
    return Response(codec.dump(value), 200, tokens(answers), "application/json")


def tokens(answers: Answers) -> dict[str, str]:
    """Return the header with the tokens of all answers."""
    return {TOKEN: ",".join(one.headers[TOKEN] for one in answers.values() if TOKEN in one.headers)}


def lists(answers: Answers) -> Response:
    """Return the lists of all cells as one."""
    return merged(answers, [one for answer in answers.values() for one in answer.json()])


def statistics(answers: Answers) -> Response:
    """Return the statistics of all cells' models."""
    found = [one for answer in answers.values() for one in answer.json()["model_stats"]]
    return merged(answers, {"model_stats": found})


def task_page(answers: Answers, limit: int) -> Response:
    """Return the first `limit` tasks of one page of each cell, in the order of keys."""
    pages = [answer.json() for answer in answers.values()]
    listed = (task for page in pages for task in page["tasks"] if not task["standby"])
    tasks = sorted(listed, key=lambda one: one["key"])
    more = len(tasks) > limit or any(page["next_cursor"] for page in pages)
    # Of a cell whose page ends earlier nothing may be passed over.
    ends = [page["tasks"][-1]["key"] for page in pages if page["next_cursor"]]
    shown = [task for task in tasks[:limit] if not ends or task["key"] <= min(ends)]
    last = shown[-1]["key"] if shown else min(ends, default="")
    cursor = base64.urlsafe_b64encode(last.encode()).decode() if more and last else None
    return merged(answers, {"tasks": shown, "next_cursor": cursor})


def store(answers: Answers) -> Response:
    """Return the first cell's description, with the tasks and bytes of all."""
    several = [answer.json() for answer in answers.values()]
    size = {name: sum(one["bytes"][name] for one in several) for name in several[0]["bytes"]}
    return merged(answers, several[0] | {"tasks": sum(one["tasks"] for one in several), "bytes": size})


def fullest(answers: Answers) -> Response:
    """Return the answer of the cell with the most tasks."""
    return passed_on(max(answers.values(), key=lambda answer: answer.json()["tasks"]))


def metrics(answers: Answers) -> Response:
    """Return the metrics of all cells, each sample with its cell's name."""
    parts: list[bytes] = []
    for cell, answer in answers.items():
        label = b'cell="%s"' % cell.encode()

        def labelled(match: re.Match[bytes], label: bytes = label) -> bytes:
            return match[1] + b"{" + label + (b"," if match[2] else b"}")

        lines = answer.content.replace(b"\n# EOF", b"").split(b"\n")
        kept = [line for line in lines if not (parts and line.startswith(b"#"))]  # each metric is described once
        parts.append(_SAMPLE.sub(labelled, b"\n".join(kept)))
    return Response(b"".join(parts), media_type="text/plain; version=0.0.4")


def located(answers: Answers) -> Response:
    """Return the contexts of all cells that fit rows, best first, with shares among all of them.

    Scores are the softmax of their evidence: a cell's best one says how much all of its candidates weigh.
    """
    several = [answer.json() for answer in answers.values()]
    scores = sorted((one for found in several for one in found["scores"]), key=lambda one: -one["evidence"])
    top = scores[0]["evidence"]
    best = [found["scores"][0] for found in several]
    whole = sum(math.exp(one["evidence"] - top) / one["probability"] for one in best)
    for one in scores:
        one["probability"] = math.exp(one["evidence"] - top) / whole
    found = {"best": scores[0]["context"], "scores": scores[:_MOST_SHOWN], "rows": several[0]["rows"]}
    return merged(answers, found)
