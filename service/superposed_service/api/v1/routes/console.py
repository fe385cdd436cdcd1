"""The console: a page and its files, which ask for an API key and hold no data of their own."""

from importlib.resources import files

from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter
from superposed_service.errors import UnknownFile

router = ApiRouter(include_in_schema=False)

_FILES = StaticFiles(directory=str(files("superposed_service.api.console")))
_SERVED = (".html", ".css", ".js", ".svg")
# Nothing from elsewhere, nothing inline, no frames: what the page may do is in its own files.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class _Compressed(Response):
    """A response that is sent as the client's `Accept-Encoding` allows."""

    def __init__(self, response: Response) -> None:
        super().__init__(status_code=response.status_code, headers=dict(response.headers))
        self._app = GZipMiddleware(response)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@router.serve("GET", "/", None)
async def root(_: ApiRequest) -> Response:
    """Redirect to the console; relative, so that it works behind a path prefix too."""
    return Response(status_code=307, headers={"Location": "console"})


@router.serve("GET", "/docs", None)
async def docs(request: ApiRequest) -> Response:
    """Serve Swagger UI from the package."""
    return await file(request, "docs.html")


@router.serve("GET", "/console", None)
async def page(request: ApiRequest) -> Response:
    """Return the page; its files are beside it under `/console/`."""
    return await file(request, "index.html")


@router.serve("GET", "/console/{path:path}", None)
async def file(request: ApiRequest, path: str) -> Response:
    """Return a script, style or picture of the page."""
    try:
        if not path.endswith(_SERVED):
            raise HTTPException(404)
        found = await _FILES.get_response(path, request.scope)
    except HTTPException:
        raise UnknownFile("the console has no such file", received=path[:100]) from None
    # What a library's file holds is named by its version; ours are asked for again, and mostly not sent.
    caching = "public, max-age=31536000, immutable" if path.startswith("vendor/") else "no-cache"
    found.headers.update(_HEADERS | {"Cache-Control": caching})
    return _Compressed(found)
