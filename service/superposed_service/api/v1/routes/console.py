"""The console: a page and its files, which ask for an API key and hold no data of their own."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.console import ConsoleFile, console_files
from superposed_service.errors import UnknownFile

router = APIRouter(include_in_schema=False)

# Nothing from elsewhere, nothing inline, no frames: what the page may do is in its own files.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}


@router.get("/")
@requires(None)
async def root(request: Request) -> Response:
    """Redirect to the console; relative, so that it works behind a path prefix too."""
    del request
    return Response(status_code=307, headers={"Location": "console"})


@router.get("/docs")
@requires(None)
async def docs(request: Request) -> Response:
    """Serve Swagger UI from the package."""
    return _answer(request, console_files()["docs.html"])


@router.get("/console")
@requires(None)
async def page(request: Request) -> Response:
    """Return the page; its files are beside it under `/console/`."""
    return _answer(request, console_files()["index.html"])


@router.get("/console/{path:path}")
@requires(None)
async def file(request: Request, path: str) -> Response:
    """Return a script, style or picture of the page."""
    found = console_files().get(path)
    if found is None:
        raise UnknownFile("the console has no such file", received=path[:100])
    return _answer(request, found)


def _answer(request: Request, file: ConsoleFile) -> Response:
    # What a library's file holds is named by its version; ours are asked for again, and mostly not sent.
    caching = "public, max-age=31536000, immutable" if file.versioned else "no-cache"
    headers = _HEADERS | {"ETag": file.etag, "Cache-Control": caching}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.compressed, 200, headers | {"Content-Encoding": "gzip"}, file.media_type)
    return Response(file.content, 200, headers, file.media_type)
