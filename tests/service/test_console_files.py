"""The console's files as they are served: to anyone, with a strict policy, and cached as they may be."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx

from tests.helpers.api_keys import make
from tests.helpers.http import problem

FOLDER = Path(__file__).resolve().parents[2] / "service" / "superposed_service" / "api" / "console"
LIBRARY = "/console/vendor/echarts-6.1.0/echarts.esm.min.js"


def test_the_page_needs_no_key_and_holds_no_data(http: httpx.Client) -> None:
    make(http, "admin")
    page = http.get("/console")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.text == (FOLDER / "index.html").read_text()
    problem(http.get("/v1/store"), 401, "unauthenticated")


def test_what_the_page_names_is_there(http: httpx.Client) -> None:
    page = http.get("/console").text
    named = set(re.findall(r'(?:href|src)="(console/[^"]+)"', page))
    assert len(named) >= 5
    for path in named:
        assert http.get(f"/{path}").status_code == 200
    for path in (FOLDER / "js").rglob("*.js"):
        for module in re.findall(r'(?:from |import\()"(\.[^"]+)"', path.read_text()):
            assert (path.parent / module).resolve().is_file(), f"{path}: {module}"


def test_the_policy_lets_nothing_in(http: httpx.Client) -> None:
    for path in ("/console", "/console/js/app.js", "/console/css/base.css"):
        headers = http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = (FOLDER / "index.html").read_text() + (FOLDER / "docs.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)|https?://", page)


def test_caching(http: httpx.Client) -> None:
    own, library = (http.get("/console/js/app.js"), http.get("/console/vendor/echarts-6.1.0/echarts.esm.min.js"))
    assert own.headers["cache-control"] == "no-cache"
    assert "immutable" in library.headers["cache-control"]
    again = http.get("/console/js/app.js", headers={"If-None-Match": own.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get("/console/js/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_compression(http: httpx.Client) -> None:
    with http.stream("GET", LIBRARY, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        packed = b"".join(answer.iter_raw())
    plain = http.get(LIBRARY, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(packed) == plain.content
    assert len(packed) < len(plain.content) / 2


def test_nothing_else_is_served(http: httpx.Client) -> None:
    for path in ("__init__.py", "../cli.py", "%2e%2e/cli.py", "vendor/echarts-6.1.0/LICENSE/", "js", ""):
        problem(http.get(f"/console/{path}"), 404, "not-found")


def test_the_library_comes_with_its_licence() -> None:
    for library in ("echarts-6.1.0", "swagger-ui-5.35.0"):
        for name in ("LICENSE", "NOTICE"):
            assert (FOLDER / "vendor" / library / name).is_file()
