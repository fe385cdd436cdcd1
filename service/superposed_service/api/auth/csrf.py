"""Protection against cross-site requests from a browser that reaches this server."""

from urllib.parse import urlsplit

from starlette.types import Scope

from superposed_service.errors import Forbidden
from superposed_service.observability.request_ids import header

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


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
        raise Forbidden(
            "the request comes from another site's page",
            expected="a page of this server, or a program",
            received=site or origin,
        )
