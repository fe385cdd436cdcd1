"""Before a body is read: whose page asks, until when an answer is of use, and whether there is room."""

from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.types import Scope

from superposed_service.api.auth import principal_of
from superposed_service.engine.request_metadata import ANYONE, enter, timeout_of
from superposed_service.errors import Forbidden
from superposed_service.observability.request_ids import header
from superposed_service.runtime.runtime import Runtime

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ROWS = ("/infer", "/update", "/evaluate", "/locate")


def check_site(scope: Scope) -> None:
    """Raise `Forbidden` where a request that changes or asks something comes from another site's page.

    A browser sends such a request without asking this server where it looks like a form's, and then only the
    answer is kept from the page. Programs that are no browsers say nothing of a site.

    Source: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
    """
    if scope["method"] in _READING:
        return
    site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
    if site:
        own = site in {"same-origin", "none"}
    else:
        own = origin is None or urlsplit(origin).netloc == header(scope, b"host")
    if not own:
        text = "the request comes from another site's page"
        raise Forbidden(text, expected="a page of this server, or a program", received=site or origin)


def check_room(api: Starlette, scope: Scope) -> None:
    """Note who asks, and until when; where the request is about rows, check its estimated wait.

    Raise `Overloaded` where the response would come too late, at the least possible cost, and `InvalidRequest` where
    `Request-Timeout` is no number of seconds.
    """
    timeout_s = timeout_of(header(scope, b"request-timeout"))
    enter(principal_of(scope).author or ANYONE, timeout_s)
    path: str = scope["path"]
    if scope["method"] == "POST" and path.endswith(_ROWS):
        runtime: Runtime = api.state.runtime
        runtime.engine.check_room(reads=path.endswith("/infer"))
