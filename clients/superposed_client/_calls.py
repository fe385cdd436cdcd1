"""From an operation to the method of a client that runs it: the call, its signature and its words, once."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from superposed_client._core import Operation

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H")
F = TypeVar("F", bound=Callable[..., Any])
# Private attributes of the object: a method that runs an operation, and a handle's core, which makes them.
_RUN, _CORE = "_run", "_core"


def sync_call(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method that runs an operation and returns its result."""

    @_described_as(operation)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return getattr(self, _RUN)(operation(*args, **kwargs))

    return call


def async_call(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the coroutine method that runs an operation and returns its result."""

    @_described_as(operation)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await getattr(self, _RUN)(operation(*args, **kwargs))

    return call


def sync_method(operation: Callable[Concatenate[Any, P], Operation[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method of a handle that runs an operation of its core and returns its result."""

    @_described_as(operation)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return getattr(self, _RUN)(operation(getattr(self, _CORE), *args, **kwargs))

    return call


def async_method(
    operation: Callable[Concatenate[Any, P], Operation[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the coroutine method of a handle that runs an operation of its core and returns its result."""

    @_described_as(operation)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await getattr(self, _RUN)(operation(getattr(self, _CORE), *args, **kwargs))

    return call


def sync_chain(operation: Callable[Concatenate[Any, P], Operation[Any]]) -> Callable[Concatenate[H, P], H]:
    """Return the method of a handle that runs an operation of its core and returns the handle."""

    @_described_as(operation, "Self")
    def call(self: H, /, *args: P.args, **kwargs: P.kwargs) -> H:
        getattr(self, _RUN)(operation(getattr(self, _CORE), *args, **kwargs))
        return self

    return call


def async_chain(
    operation: Callable[Concatenate[Any, P], Operation[Any]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, H]]:
    """Return the coroutine method of a handle that runs an operation of its core and returns the handle."""

    @_described_as(operation, "Self")
    async def call(self: H, /, *args: P.args, **kwargs: P.kwargs) -> H:
        await getattr(self, _RUN)(operation(getattr(self, _CORE), *args, **kwargs))
        return self

    return call


def _described_as(operation: Callable[..., Any], result: str | None = None) -> Callable[[F], F]:
    """Return a decorator that gives a method its operation's name, words and signature, and a `self`."""
    signature = inspect.signature(operation, eval_str=False)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = result or str(signature.return_annotation).removeprefix("Operation[").removesuffix("]")
    others = [one for one in signature.parameters.values() if one.name != "self"]

    def decorate(call: Any) -> Any:
        method: Any = wraps(operation)(call)
        method.__signature__ = signature.replace(parameters=[own, *others], return_annotation=result)
        return method

    return decorate
