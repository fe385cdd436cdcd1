"""From an operation to the method of a client that runs it: the call, its signature and its words, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from superposed_client._core import Operation

__all__ = ["async_call", "sync_call"]

P = ParamSpec("P")
T = TypeVar("T")
# A private method of the object, which runs an operation.
_RUN = "_run"


def sync_call(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method that runs an operation and returns its result."""

    @wraps(operation)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = getattr(self, _RUN)(operation(*args, **kwargs))
        return result

    _as_method(call, operation)
    return call


def async_call(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the coroutine method that runs an operation and returns its result."""

    @wraps(operation)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await getattr(self, _RUN)(operation(*args, **kwargs))
        return result

    _as_method(call, operation)
    return call


def _as_method(call: Any, operation: Callable[..., Any]) -> None:
    """Give a method the signature of its operation, and an object to be called on."""
    signature = inspect.signature(operation, eval_str=False)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(signature.return_annotation).removeprefix("Operation[").removesuffix("]")
    call.__signature__ = signature.replace(
        parameters=[own, *signature.parameters.values()], return_annotation=result
    )
