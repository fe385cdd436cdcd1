"""Generate the pages of the reference from the code that they describe.

    python -m tools.reference settings      prints a page: cli, errors, http, metrics or settings

`make docs` puts the same pages into the site (`tools/docs_hooks.py`), and those of the SDK beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer
from prometheus_client.core import Metric
from typer.cli import get_docs_for_click

import superposed_client
from superposed import MLPConfig, StoreConfig, WeightStore
from superposed_client import _errors, models
from superposed_service.api.app import create_api
from superposed_service.api.problems import _HTTP, PROBLEMS
from superposed_service.changes.snapshot import begin
from superposed_service.cli.commands import app
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

OPENAPI = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"
Json = Mapping[str, Any]
# Limits of a number or text in a JSON schema, and their words.
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a cell's text is put on one line."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |\n" for line in lines)


def form(schema: Json) -> str:
    """Return the type that a JSON schema describes, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(form, several)))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return " or ".join(f"`{json.dumps(value)}`" for value in values)
    kind = str(schema.get("type", "any value"))
    if kind in _NESTED:
        return _NESTED[kind](schema)
    limits = [words.format(_plain(schema[name])) for name, words in _LIMITS.items() if name in schema]
    return f"{kind} ({', '.join(limits)})" if limits else kind


def _plain(limit: float) -> float:
    return int(limit) if float(limit).is_integer() else limit


def _array(schema: Json) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(map(form, schema['prefixItems']))}]"
    item = form(schema.get("items", {}))
    return f"array of ({item})" if " or " in item else f"array of {item}"


def _object(schema: Json) -> str:
    if isinstance(values := schema.get("additionalProperties"), Mapping):
        return f"object of {form(values)}"
    fields_told = "title" in schema or "properties" not in schema  # in rows of their own
    return "object" if fields_told else f"object with {_codes(schema['properties'])}"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_NESTED: dict[str, Callable[[Json], str]] = {"array": _array, "object": _object}


def fields(schema: Json, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield name, type and description of an object's fields; those of objects within it after their own."""
    for name, field in schema.get("properties", {}).items():
        needed = "" if name in schema.get("required", ()) else f"; default `{json.dumps(field.get('default'))}`"
        yield f"`{prefix}{name}`", form(field) + needed, field.get("description", "")
        for inner, mark in _inner(field):
            yield from fields(inner, f"{prefix}{name}{mark}.")


def _inner(schema: Json) -> Iterator[tuple[Json, str]]:
    """Yield the named objects within a field, with the mark of an array where they are its items."""
    for one in schema.get("anyOf", [schema]):
        if one.get("type") == "array":
            yield from ((item, f"[]{mark}") for item, mark in _inner(one.get("items", {})))
        elif "properties" in one and "title" in one:
            yield one, ""


def http() -> str:
    """Return the page of the routes, from the committed OpenAPI document."""
    document = json.loads(OPENAPI.read_text())
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    scoped = [operation["parameters"] for _, operation in operations if "x-scope" in operation]
    shared = [one for one in scoped[0] if all(one in several for several in scoped)]
    by_tag: dict[str, list[str]] = defaultdict(list)
    for name, operation in operations:
        by_tag[operation["tags"][0]].append(_route(name, operation, shared))
    parts = [
        "# Routes of the HTTP API\n",
        "From the server's own OpenAPI document ([openapi.json](../openapi.json)). Contexts, bodies and behaviour: "
        "[the HTTP API](../http-api.md). A failed request has a [problem document](errors.md).\n",
        "Every route with a scope takes:\n",
        _parameters(shared),
    ]
    for tag, routes in sorted(by_tag.items()):
        parts += [f"## {tag[0].upper()}{tag[1:]}\n", *routes]
    parts.append("## Objects\n")
    for name, schema in document["components"]["schemas"].items():
        parts += [f"### {name}\n", f"{schema.get('description', '')}\n", _fields(schema)]
    return "\n".join(parts)


def _route(name: str, operation: Json, shared: Sequence[Json]) -> str:
    scope = operation.get("x-scope")
    said = f"**{operation['summary']}.** " + (f"Scope `{scope}`." if scope else "No API key is needed.")
    parts = [f"### `{name}`\n", f"{said}\n", *([f"{operation['description']}\n"] if "description" in operation else ())]
    if own := [one for one in operation.get("parameters", ()) if one not in shared]:
        parts += ["Parameters:\n", _parameters(own)]
    if body := operation.get("requestBody", {}).get("content"):
        parts += [f"Body ({', '.join(f'`{kind}`' for kind in body)}):\n"]
        parts += [_fields(schema) for one in body.values() if "properties" in (schema := one["schema"])][:1]
    return "\n".join([*parts, *map(_answer, *zip(*_good(operation), strict=True))])


def _good(operation: Json) -> list[tuple[str, Json]]:
    return [(status, answer) for status, answer in operation["responses"].items() if status.startswith("2")]


def _answer(status: str, answer: Json) -> str:
    kinds = [f"{form(one.get('schema', {}))} (`{kind}`)" for kind, one in answer.get("content", {}).items()]
    words = answer.get("description", "")
    told = [*kinds, *([words] if words and words != "Successful Response" else ())]
    return f"Answer {status}: {'; '.join(told) or 'no body'}\n"


def _parameters(parameters: Iterable[Json]) -> str:
    rows = (
        (f"`{one['name']}`", one["in"], form(one["schema"]) + _needed(one), one.get("description", ""))
        for one in parameters
    )
    return table(("parameter", "in", "type", "description"), rows)


def _needed(parameter: Json) -> str:
    if parameter.get("required"):
        return "; required"
    default = parameter["schema"].get("default")
    return "" if default is None else f"; default `{json.dumps(default)}`"


def _fields(schema: Json) -> str:
    return table(("field", "type", "description"), fields(schema))


def settings() -> str:
    """Return the page of the service's settings, from their class."""
    rows = (
        (f"`SUPERPOSED_{name.upper()}`", form(schema), f"`{json.dumps(schema['default'])}`", schema["description"])
        for name, schema in Settings.model_json_schema()["properties"].items()
    )
    text = """# Settings

`superposed serve` reads each setting from its environment variable, or from a TOML file. In the file a setting has its
name in lower case, without the prefix. [Configuration](../operations.md#configuration) has the precedence, and
[the command line](cli.md) the settings that are flags too. `superposed config show` prints the values in force.

"""
    return text + table(("variable", "type", "default", "description"), rows)


def errors() -> str:
    """Return the page of the problem types, from the service's table and the SDK's classes."""
    raised: dict[tuple[int, str], list[str]] = defaultdict(list)
    for kind, (status, slug, _) in PROBLEMS.items():
        raised[status, slug].append(kind.__name__)
    for status, (slug, _) in _HTTP.items():
        raised.setdefault((status, slug), [])
    rows = (
        (f"`{slug}`", str(status), _first(_errors.ERRORS[slug]), f"`{_errors.ERRORS[slug].__name__}`", _codes(names))
        for (status, slug), names in sorted(raised.items())
    )
    text = """# Errors

A failed request is answered with `application/problem+json` (RFC 9457). Its `type` is `urn:superposed:problem:<slug>`.
[Errors](../http-api.md#errors) has the fields. The SDK raises one class for each slug; the last column names the
exceptions that a server maps to it, and their subclasses without a row of their own.

"""
    return text + table(("slug", "status", "description", "SDK error", "server's exceptions"), rows)


def _first(kind: type) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]


def metrics() -> str:
    """Return the page of the metrics, from the registry of a server that runs meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_registered(Path(folder)))
    shown = {"counter": "_total", "info": "_info"}
    rows = (
        (f"`{one.name}{shown.get(one.type, '')}`", one.type, _codes(_labels(one)), one.documentation)
        for one in sorted(found, key=lambda one: (not one.name.startswith("superposed_"), one.name))
    )
    text = """# Metrics

`GET /metrics` shows these to Prometheus ([operations](../operations.md#metrics)). A histogram has the series `_bucket`,
`_sum` and `_count`.

"""
    return text + table(("name", "type", "labels", "description"), rows)


async def _registered(folder: Path) -> list[Metric]:
    """Return the metrics of a server over a small new store, those of a follower with them."""
    network = MLPConfig(inputs=8, hidden=(8,), outputs=2)
    with DataDirectory(folder / "store") as directory:
        begin(directory, WeightStore(StoreConfig(network=network)))
        api = create_api(Settings(threads=1), directory)
        async with api.router.lifespan_context(api):
            runtime = api.state.runtime
            runtime.following = SimpleNamespace(newest=0, not_ready=None)
            try:
                return list(api.state.telemetry.metrics.registry.collect())
            finally:
                runtime.following = None


def _labels(metric: Metric) -> Sequence[str]:
    named = getattr(metric, "_labelnames", ())
    return tuple(named) or tuple(
        dict.fromkeys(label for sample in metric.samples for label in sample.labels if label != "le")
    )


def cli() -> str:
    """Return the page of the commands, as typer documents its applications."""
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="superposed", title="The command line")


def _directive(name: str, **options: object) -> str:
    lines = [f"::: {name}", "    options:", "      heading_level: 2"]
    return "\n".join([*lines, *(f"      {option}: {json.dumps(value)}" for option, value in options.items())]) + "\n"


def sdk() -> str:
    """Return the page of the clients, as directives of mkdocstrings."""
    others = {*_errors.__all__, *models.__all__}
    names = [name for name in superposed_client.__all__ if name not in others]
    waiting = [name for name in names if not name.startswith("Async")]
    text = """# The Python SDK

`pip install superposed` brings it, and no torch. Calls return the [results](sdk-results.md), and raise the
[errors](sdk-errors.md). `AsyncClient`, `AsyncTask` and `AsyncKeys` have the calls of `Client`, `Task` and `Keys` as
coroutine methods.
"""
    parts = [text, *(_directive(f"superposed_client.{name}") for name in waiting)]
    parts.append(_directive("superposed_client._operations.TaskFields", members=False))
    asynchronous = [f"superposed_client.{name}" for name in names if name.startswith("Async")]
    return "\n".join([*parts, *(_directive(name, inherited_members=False) for name in asynchronous)])


def sdk_results() -> str:
    """Return the page of the SDK's results."""
    options = {"show_if_no_docstring": True, "show_labels": False, "filters": ["!^_", "!^shown$", "!^model_config$"]}
    parts = ["# Results of the SDK\n", *(_directive(f"superposed_client.{name}", **options) for name in models.__all__)]
    return "\n".join(parts)


def sdk_errors() -> str:
    """Return the page of the SDK's errors."""
    names = [name for name in _errors.__all__ if name != "ERRORS"]
    directives = (_directive(f"superposed_client.{name}", inherited_members=False) for name in names)
    return "\n".join(["# Errors of the SDK\n", *directives])


def estimators() -> str:
    """Return the page of the estimators of other libraries, the bases with their parameters among them."""
    parts = ["# Estimators for scikit-learn and river\n"]
    for name, base in (("sklearn", "_Estimator"), ("river", "_Stream")):
        members = [base, "SuperposedClassifier", "SuperposedRegressor"]
        parts.append(_directive(f"superposed.{name}", members=members, show_root_full_path=True))
    return "\n".join(parts)


# Pages that can be printed, and those for which the site has a renderer.
PRINTED: dict[str, Callable[[], str]] = {
    "cli": cli, "errors": errors, "http": http, "metrics": metrics, "settings": settings
}  # fmt: skip
PAGES = PRINTED | {"estimators": estimators, "sdk": sdk, "sdk-errors": sdk_errors, "sdk-results": sdk_results}


def main() -> None:
    """Print a page."""
    parser = argparse.ArgumentParser(description="Print a page of the reference, as Markdown.")
    parser.add_argument("page", choices=PRINTED)
    print(PRINTED[parser.parse_args().page]())


if __name__ == "__main__":
    main()
