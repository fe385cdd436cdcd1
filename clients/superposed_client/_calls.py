"""From an operation to the method of a client that runs it: the call, its signature and its words, once."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from superposed_client._core import Operation

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H")
# Private attributes of the object: a method that runs an operation, and a handle's core, which makes them.
_RUN, _CORE = "_run", "_core"


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


def sync_method(operation: Callable[Concatenate[Any, P], Operation[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method of a handle that runs an operation of its core and returns its result."""

    @wraps(operation)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = getattr(self, _RUN)(operation(getattr(self, _CORE), *args, **kwargs))
        return result

    _as_method(call, operation)
    return call


def async_method(
    operation: Callable[Concatenate[Any, P], Operation[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the coroutine method of a handle that runs an operation of its core and returns its result."""

    @wraps(operation)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await getattr(self, _RUN)(operation(getattr(self, _CORE), *args, **kwargs))
        return result

    _as_method(call, operation)
    return call


def sync_chain(operation: Callable[Concatenate[Any, P], Operation[Any]]) -> Callable[Concatenate[H, P], H]:
    """Return the method of a handle that runs an operation of its core and returns the handle."""
    run = sync_method(operation)

    @wraps(run)
    def call(self: H, /, *args: P.args, **kwargs: P.kwargs) -> H:
        run(self, *args, **kwargs)
        return self

    _as_method(call, operation, "Self")
    return call


def async_chain(
    operation: Callable[Concatenate[Any, P], Operation[Any]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, H]]:
    """Return the coroutine method of a handle that runs an operation of its core and returns the handle."""
    run = async_method(operation)

    @wraps(run)
    async def call(self: H, /, *args: P.args, **kwargs: P.kwargs) -> H:
        await run(self, *args, **kwargs)
        return self

    _as_method(call, operation, "Self")
    return call


def _as_method(call: Any, operation: Callable[..., Any], result: str | None = None) -> None:
    """Give a method the signature of its operation, and an object to be called on."""
    signature = inspect.signature(operation, eval_str=False)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = result or str(signature.return_annotation).removeprefix("Operation[").removesuffix("]")
    others = [one for one in signature.parameters.values() if one.name != "self"]
    call.__signature__ = signature.replace(parameters=[own, *others], return_annotation=result)
