"""Before a body is read: until when an answer is of use, and whether there is room for the request."""

from starlette.applications import Starlette
from starlette.types import Scope

from superposed_service.api.auth import principal_of
from superposed_service.engine.request_metadata import ANYONE, enter, timeout_of
from superposed_service.observability.request_ids import header
from superposed_service.runtime.runtime import Runtime

_ROWS = ("/infer", "/update", "/evaluate", "/locate")


def check_room(api: Starlette, scope: Scope) -> None:
    """Note who asks, and until when; where the request is about rows, check its estimated wait.

    Requests about rows that could not be worked on in time are refused here, at the least possible cost.

    Raises:
        InvalidRequest: `Request-Timeout` is no number of seconds.
        Overloaded: The response would come too late.
    """
    timeout_s = timeout_of(header(scope, b"request-timeout"))
    enter(principal_of(scope).author or ANYONE, timeout_s)
    path: str = scope["path"]
    if scope["method"] == "POST" and path.endswith(_ROWS):
        runtime: Runtime = api.state.runtime
        runtime.engine.check_room(reads=path.endswith("/infer"))
