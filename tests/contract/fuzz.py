"""Sends what nobody would: requests made from the OpenAPI document, and bytes at the codecs.

    python -m tests.contract.fuzz --cases 100000 --results docs/results/security/fuzz.json

Three kinds. `document`: schemathesis makes requests for every operation, valid and not. `bodies`: JSON and
binary tensors for the hot routes, both faces, cut and bent by Hypothesis. `codec`: the readers of bodies
alone, without HTTP. After every request that was refused the weights, optimizer and registry are what they
were, digest for digest; no answer is a 500, and nothing but the service's own errors leaves a reader.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests  # type: ignore[import-untyped]  # what schemathesis sends with
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from experiments.report import machine, write_json
from superposed.errors import SuperposedError
from superposed.store.store import WeightStore
from superposed_service.api.tensors import DATATYPES, HEAD_LENGTH, TENSORS_MEDIA_TYPE
from superposed_service.api.v1 import codec
from superposed_service.api.v1.schemas import EvaluateBody, InferBody, UpdateBody
from superposed_service.api.v2 import messages
from tests.conftest import make_directory, serving

WIDTH = 64
ROW = [float(number % 7) for number in range(WIDTH)]
TASKS = ("digits", "other", "values")
_SLOW_IS_FINE = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
]


@schemathesis.serializer("application/x-ndjson")
def lines(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Body of a stream: any text is lines."""
    return str(value).encode()


@dataclass
class Found:
    """Findings of a fuzzing run."""

    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def cases(self) -> int:
        return sum(self.statuses.values())

    def describe(self) -> dict[str, Any]:
        counts = {name: self.statuses[name] for name in sorted(self.statuses)}
        return {"cases": self.cases, "answers": counts, "slowest_s": self.slowest_s, "broken": self.broken[:20]}


class Target:
    """A server, and a look at its store."""

    def __init__(self, http: httpx.Client, engine: Any) -> None:
        self.http = http
        self._engine = engine
        self._known: tuple[int, str] | None = None

    def register(self) -> None:
        """Registers the tasks that requests are about, where they are not."""
        for key in TASKS[:2]:
            self.http.post("/v1/tasks", json={"key": key, "labels": [str(n) for n in range(10)]})
        self.http.post("/v1/tasks", json={"key": "values", "outputs": 2, "loss": "mse"})
        self._known = None

    def _digest(self) -> tuple[int, str]:
        import asyncio

        def look(store: WeightStore) -> tuple[int, str]:
            return store.sequence, store.digest()

        return asyncio.run(self._engine.call(look))

    def check(self, found: Found, answer: httpx.Response, what: str) -> None:
        """Counts an answer; a refusal leaves the store as it was."""
        found.statuses[str(answer.status_code)] += 1
        if answer.status_code >= 500 and answer.status_code not in {503, 504}:
            found.broken.append(f"{answer.status_code}: {what[:500]}")
        now = self._digest()
        refused = answer.status_code >= 400 and "update-refused" not in answer.text
        if refused and self._known is not None and now != self._known:
            found.broken.append(f"refused with {answer.status_code}, and changed something: {what[:500]}")
        self._known = now


@contextmanager
def target() -> Iterator[Target]:
    apis: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        path = make_directory(Path(folder) / "store")
        with serving(path, change=apis.append, max_steps=3) as http:
            http.timeout = httpx.Timeout(120)
            yield Target(http, apis[0].state.runtime.engine)


def _many(count: int, strategy: st.SearchStrategy[Any], test: Callable[[Any], None]) -> None:
    chosen = settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=_SLOW_IS_FINE, phases=[Phase.generate]
    )
    chosen(seed(0)(given(strategy)(test)))()


def document(found: Found, at: Target, examples: int) -> None:
    """Requests made from the OpenAPI document: so many for each operation."""
    schema = schemathesis.openapi.from_url(f"{at.http.base_url}/openapi.json")
    for operation in schema.get_all_operations():
        each = operation.ok()
        if each.label != "POST /v1/keys":  # its first good answer would close the server to all the others
            _many(examples, each.as_strategy(), _asking(found, at, each.label))


def _asking(found: Found, at: Target, name: str) -> Callable[[Any], None]:
    def ask(case: Any) -> None:
        if name == "GET /v1/events":
            seen = _begun(case, str(at.http.base_url))
        else:
            answer = case.call(timeout=120)
            found.slowest_s = max(found.slowest_s, answer.elapsed)
            seen = httpx.Response(answer.status_code, content=answer.content)
        at.check(found, seen, f"{name} {case.as_curl_command()}")

    return ask


def _begun(case: Any, url: str) -> httpx.Response:
    """The answer to a request for events, which does not end where it is a good one."""
    with requests.request(**case.as_transport_kwargs(base_url=url), stream=True, timeout=120) as answer:
        content = b"" if answer.status_code == 200 else answer.content
    return httpx.Response(answer.status_code, content=content)


numbers = st.one_of(
    st.integers(-3, 300), st.floats(width=32), st.integers(), st.floats(), st.none(), st.booleans(), st.text()
)
contexts = st.recursive(
    st.one_of(st.sampled_from([*TASKS, "nobody", "digits^1.5", "mix(digits:1,other:2)", ""]), st.text()),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"task": inner}),
        st.fixed_dictionaries({"power": st.fixed_dictionaries({"context": inner, "exponent": numbers})}),
        st.fixed_dictionaries(
            {"mixture": st.lists(st.fixed_dictionaries({"context": inner, "weight": numbers}), max_size=3)}
        ),
    ),
    max_leaves=6,
)
rows = st.one_of(
    st.just([ROW]),
    st.just([ROW, ROW[:-1]]),
    st.lists(st.lists(numbers, max_size=4), max_size=3),
    st.builds(lambda number: [[number, *ROW[1:]]], numbers),
    numbers,
)


def changed(base: dict[str, Any], fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """A good body in which up to two fields are others."""
    change = st.sampled_from(sorted(fields)).flatmap(lambda name: st.tuples(st.just(name), fields[name]))
    return st.one_of(st.just(base), st.lists(change, max_size=2).map(lambda changes: base | dict(changes)))


_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "context": contexts,
    "contexts": st.lists(contexts, max_size=3),
    "inputs": rows,
    "targets": st.one_of(st.lists(numbers, max_size=3), numbers),
    "steps": numbers,
    "return": st.lists(st.sampled_from(["labels", "logits", "values", "probabilities", "x"]), max_size=3),
    "surprise": numbers,
}
infer_bodies = changed({"context": "digits", "inputs": [ROW]}, _FIELDS)
taught_bodies = changed({"context": "digits", "inputs": [ROW], "targets": ["1"]}, _FIELDS)
tensors = st.fixed_dictionaries(
    {
        "datatype": st.sampled_from([*DATATYPES, "BYTES", "FP8", ""]),
        "shape": st.one_of(st.just([1, WIDTH]), st.lists(st.integers(-1, 2**40), max_size=9), numbers),
    }
)
v2_inputs = changed(
    {"name": "input", "datatype": "FP32", "shape": [1, WIDTH], "data": ROW},
    {
        "name": st.sampled_from(["input", "context", "x"]),
        "datatype": st.sampled_from([*DATATYPES, "BYTES", "x"]),
        "shape": st.lists(st.integers(-1, 2**40), max_size=4),
        "data": st.one_of(st.lists(numbers, max_size=5), numbers),
        "parameters": st.one_of(
            st.fixed_dictionaries({"binary_data_size": st.one_of(st.just(4 * WIDTH), st.integers(-1, 600))}), numbers
        ),
    },
)
v2_bodies = st.builds(
    lambda inputs, changes: changes | {"inputs": inputs} | changes,
    st.one_of(v2_inputs.map(lambda one: [one]), st.lists(v2_inputs, max_size=3)),
    changed(
        {},
        {
            "inputs": numbers,
            "id": numbers,
            "outputs": st.one_of(st.lists(v2_inputs, max_size=2), numbers),
            "parameters": numbers,
        },
    ),
)


@st.composite
def bent(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes as they are, or cut, or with something else in them."""
    how = draw(st.sampled_from(["as it is"] * 6 + ["cut", "put in", "replaced"]))
    place = draw(st.integers(0, len(content)))
    more = draw(st.binary(max_size=8))
    if how == "cut":
        return content[:place]
    if how == "put in":
        return content[:place] + more + content[place:]
    return content if how == "as it is" else content[:place] + more + content[place + len(more) :]


def _text(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def framed(draw: st.DrawFn, heads: st.SearchStrategy[Any]) -> tuple[bytes, str | None]:
    """A JSON head, tensors behind it, and what the header says of where those begin."""
    head = _text(draw(heads))
    data = draw(st.one_of(st.just(bytes(4 * WIDTH)), st.binary(max_size=300)))
    length = draw(st.sampled_from([str(len(head))] * 6 + [None, "0", "-1", "1e1", "٣", str(len(head) - 1)]))
    return draw(bent(head + data)), length


def native(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[bytes, str, str | None]]:
    """Bodies of the native face, JSON or binary: bytes, Content-Type, and how long the head is."""
    heads = st.builds(
        lambda body, inputs: body | {"inputs": inputs},
        bodies,
        st.one_of(st.just({"datatype": "FP32", "shape": [1, WIDTH]}), tensors),
    )
    return st.one_of(
        st.tuples(bodies.map(_text).flatmap(bent), st.just("application/json"), st.none()),
        framed(heads).map(lambda framed: (framed[0], TENSORS_MEDIA_TYPE, framed[1])),
    )


protocol = st.one_of(st.tuples(v2_bodies.map(_text).flatmap(bent), st.none()), framed(v2_bodies))


def _headers(**values: str | None) -> dict[str, bytes]:
    names = {"kind": "Content-Type", "length": HEAD_LENGTH}
    return {
        names[name]: value.encode("utf-8")
        for name, value in values.items()
        if value is not None and not set(value) & set("\0\r\n") and value.strip() == value
    }


def bodies(found: Found, at: Target, examples: int) -> None:
    """Bodies for the routes about rows, over HTTP."""

    def ask_native(asked: tuple[tuple[bytes, str, str | None], str]) -> None:
        (content, kind, length), route = asked
        headers = _headers(kind=kind, length=length)
        answer = at.http.post(f"/v1/{route}", content=content, headers=headers)
        found.slowest_s = max(found.slowest_s, answer.elapsed.total_seconds())
        at.check(found, answer, f"{route} {headers} {content!r}")

    def ask_v2(asked: tuple[tuple[bytes, str | None], str]) -> None:
        (content, length), model = asked
        headers = _headers(length=length)
        answer = at.http.post(f"/v2/models/{model}/infer", content=content, headers=headers)
        at.check(found, answer, f"{model} {headers} {content!r}")

    inferred = st.tuples(native(infer_bodies), st.just("infer"))
    taught = st.tuples(native(taught_bodies), st.sampled_from(["update", "evaluate", "infer"]))
    _many(examples // 2, st.one_of(inferred, taught), ask_native)
    _many(examples // 2, st.tuples(protocol, st.sampled_from(["digits", "values", "nobody"])), ask_v2)


def read_anything(content: bytes, kind: str, length: str | None) -> str:
    """Reads bytes as every body there is; returns which errors that gave.

    Raises:
        Exception: Anything but the service's own errors.
    """
    outcome = []
    for model in (InferBody, EvaluateBody, UpdateBody):
        try:
            codec.read_body(model, content, kind, length)
            outcome.append("read")
        except SuperposedError as error:
            outcome.append(type(error).__name__)
    try:
        messages.read_request(content, length, "digits", WIDTH)
        outcome.append("read")
    except SuperposedError as error:
        outcome.append(type(error).__name__)
    return " ".join(outcome)


def codecs(found: Found, examples: int) -> None:
    """The readers of bodies, without HTTP."""

    def ask(asked: tuple[bytes, str, str | None]) -> None:
        try:
            found.statuses[read_anything(*asked)] += 1
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            found.broken.append(f"{error!r}: {asked!r}"[:500])
            found.statuses["crash"] += 1

    raw = st.tuples(
        st.binary(max_size=400),
        st.sampled_from(["application/json", TENSORS_MEDIA_TYPE]),
        st.one_of(st.none(), st.integers(0, 400).map(str)),
    )
    v2 = protocol.map(lambda asked: (asked[0], TENSORS_MEDIA_TYPE, asked[1]))
    _many(examples, st.one_of(native(infer_bodies), native(taught_bodies), v2, raw), ask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    values: dict[str, Any] = {"machine": machine(), "asked": asked.cases}
    started = time.monotonic()
    with target() as at:
        operations = len(at.http.get("/openapi.json").json()["paths"])
        share = {"document": asked.cases // 5, "bodies": asked.cases // 5}
        for name, run in (("document", document), ("bodies", bodies)):
            found = Found()
            at.register()
            run(found, at, share[name] // (operations if name == "document" else 1))
            values[name] = found.describe()
            print(name, json.dumps(values[name]), flush=True)
    found = Found()
    codecs(found, asked.cases - sum(values[name]["cases"] for name in share))
    values["codec"] = found.describe()
    values["cases"] = sum(values[name]["cases"] for name in ("document", "bodies", "codec"))
    values["seconds"] = time.monotonic() - started
    print(json.dumps(values), flush=True)
    write_json(asked.results, values)
    if any(values[name]["broken"] for name in ("document", "bodies", "codec")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
