"""The committed OpenAPI document, and what may change in it.

    python -m tests.contract.openapi            says what would break a client, and what is only new
    python -m tests.contract.openapi --write    writes docs/openapi.json again

A document may grow. What clients rely on stays: routes, methods, parameters, fields of answers, what a
request may hold, and the statuses of good answers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from superposed_service.api.app import create_api
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory

FILE = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
Json = Mapping[str, Any]


def served() -> dict[str, Any]:
    """The document of the application as it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_directory(Path(folder) / "store")
        with DataDirectory(path) as directory:
            return create_api(Settings(), directory).openapi()


def render(document: Json) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def breaking(old: Json, new: Json) -> list[str]:
    """List the parts of the old document that a client would miss in the new one."""
    return sorted(set(_paths(old, new)))


def _paths(old: Json, new: Json) -> Iterator[str]:
    for path, methods in old["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"
            if method not in new["paths"].get(path, {}):
                yield f"{name}: is gone"
                continue
            yield from _operation(name, operation, new["paths"][path][method], old, new)


def _operation(name: str, was: Json, now: Json, old: Json, new: Json) -> Iterator[str]:
    yield from _parameters(name, was, now, old, new)
    if not _ALLOWED[was.get("x-scope")] <= _ALLOWED[now.get("x-scope")]:
        yield f"{name}: needs more than before: {now['x-scope']}"
    bodies = (_content(was.get("requestBody", {})), _content(now.get("requestBody", {})))
    for kind, schema in bodies[0].items():
        if kind not in bodies[1]:
            yield f"{name}: bodies of {kind} are not read any more"
        else:
            yield from _asked(f"{name} body", schema, bodies[1][kind], old, new)
    for status, answer in was["responses"].items():
        if status not in now["responses"]:
            yield f"{name}: answer {status} is gone"
        else:
            yield from _answers(f"{name} {status}", answer, now["responses"][status], old, new)


# Which API keys may do what needs a scope.
_ALLOWED: dict[str | None, set[str]] = {
    None: {"nobody's", "monitor", "infer", "update", "replicate", "admin"},
    "monitor": {"monitor", "admin"},
    "infer": {"infer", "update", "admin"},
    "update": {"update", "admin"},
    "replicate": {"replicate", "admin"},
    "admin": {"admin"},
}


def _parameters(name: str, was: Json, now: Json, old: Json, new: Json) -> Iterator[str]:
    before = {(one["in"], one["name"]): one for one in was.get("parameters", ())}
    after = {(one["in"], one["name"]): one for one in now.get("parameters", ())}
    for key, one in before.items():
        if key not in after:
            yield f"{name}: parameter {key[1]} is gone"
        else:
            yield from _asked(f"{name} {key[1]}", one["schema"], after[key]["schema"], old, new)
    for key, one in after.items():
        if one.get("required") and not before.get(key, {}).get("required"):
            yield f"{name}: parameter {key[1]} is required now"


def _answers(where: str, was: Json, now: Json, old: Json, new: Json) -> Iterator[str]:
    after = _content(now)
    for kind, schema in _content(was).items():
        if kind not in after:
            yield f"{where}: is not {kind} any more"
        else:
            yield from _answered(where, schema, after[kind], old, new)


def _content(body: Json) -> dict[str, Json]:
    return {kind: one.get("schema", {}) for kind, one in body.get("content", {}).items()}


def _resolved(schema: Json, document: Json) -> Json:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _choices(schema: Json, document: Json) -> list[Json]:
    several = schema.get("anyOf") or schema.get("oneOf")
    return [_resolved(one, document) for one in several] if several else [schema]


def _kinds(schema: Json, document: Json) -> set[str]:
    """Return the values that a schema allows: constants where it lists them, else types; empty for any."""
    found: set[str] = set()
    for one in _choices(_resolved(schema, document), document):
        listed = one.get("enum", [one["const"]] if "const" in one else None)
        found |= {f"={value!r}" for value in listed} if listed is not None else {str(one.get("type", "any"))}
    return set() if "any" in found else found


def _fields(schema: Json, document: Json) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for one in _choices(_resolved(schema, document), document):
        found |= one.get("properties", {})
    return found


_NARROWING = {"maximum": 1, "exclusiveMaximum": 1, "maxLength": 1, "maxItems": 1, "minimum": -1,
              "exclusiveMinimum": -1, "minLength": -1, "minItems": -1}  # fmt: skip


def _asked(where: str, was: Json, now: Json, old: Json, new: Json) -> Iterator[str]:
    """List the parts of a request that the new document no longer allows."""
    before, after = _kinds(was, old), _kinds(now, new)
    if after and (not before or before - after):
        yield f"{where}: may not be {sorted(before - after) or 'anything'} any more"
    was, now = _resolved(was, old), _resolved(now, new)
    yield from _narrowed(where, was, now)
    for name in set(now.get("required", ())) - set(was.get("required", ())):
        yield f"{where}: {name} is required now"
    fields = _fields(now, new)
    for name, schema in _fields(was, old).items():
        if name not in fields:
            yield f"{where}: field {name} is gone"
        else:
            yield from _asked(f"{where}.{name}", schema, fields[name], old, new)
    if "items" in was and "items" in now:
        yield from _asked(f"{where}[]", was["items"], now["items"], old, new)


def _narrowed(where: str, was: Json, now: Json) -> Iterator[str]:
    for name, sign in _NARROWING.items():
        if name in now and (name not in was or sign * now[name] < sign * was[name]):
            yield f"{where}: {name} is {now[name]} now"
    if "pattern" in now and now["pattern"] != was.get("pattern"):
        yield f"{where}: has another pattern"


def _answered(where: str, was: Json, now: Json, old: Json, new: Json) -> Iterator[str]:
    """List the parts of a response that are gone, and values that a client would not know."""
    before, after = _kinds(was, old), _kinds(now, new)
    if before and (not after or after - before):
        yield f"{where}: may be {sorted(after - before) or 'anything'} now"
    was, now = _resolved(was, old), _resolved(now, new)
    for name in set(was.get("required", ())) - set(now.get("required", ())):
        yield f"{where}: {name} may be missing now"
    fields = _fields(now, new)
    for name, schema in _fields(was, old).items():
        if name not in fields:
            yield f"{where}: field {name} is gone"
        else:
            yield from _answered(f"{where}.{name}", schema, fields[name], old, new)
    if "items" in was and "items" in now:
        yield from _answered(f"{where}[]", was["items"], now["items"], old, new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="Takes the document as it is now.")
    asked = parser.parse_args()
    document = served()
    if FILE.exists():
        lost = breaking(json.loads(FILE.read_text()), document)
        print("\n".join(lost) or "nothing that a client relies on has changed")
    if asked.write:
        FILE.write_text(render(document))
        print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
