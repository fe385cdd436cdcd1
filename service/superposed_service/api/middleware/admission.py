"""Before a body is read: until when an answer is of use, and whether there is room for the request."""

from starlette.applications import Starlette
from starlette.types import Scope

from superposed_service.api.auth import principal_of
from superposed_service.engine.request_metadata import ANYONE, enter, timeout_of
from superposed_service.observability.request_ids import header
from superposed_service.runtime.runtime import Runtime

_ROWS = ("/infer", "/update", "/evaluate", "/locate")


class Admission:
    """Refuses requests about rows that could not be worked on in time, at the least possible cost."""

    def __init__(self, api: Starlette) -> None:
        self._api = api

    def check(self, scope: Scope) -> None:
        """Note who asks, and until when; where the request is about rows, check its estimated wait.

        Raises:
            InvalidRequest: `Request-Timeout` is no number of seconds.
            Overloaded: The response would come too late.
        """
        timeout_s = timeout_of(header(scope, b"request-timeout"))
        enter(principal_of(scope).author or ANYONE, timeout_s)
        path: str = scope["path"]
        if scope["method"] == "POST" and path.endswith(_ROWS):
            runtime: Runtime = self._api.state.runtime
            runtime.engine.check_room(reads=path.endswith("/infer"))
