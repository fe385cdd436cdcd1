"""From an operation to the method of a client that runs it: the call, its signature and its words, once."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

from superposed_client._core import Operation

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H")


def sync_call(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method that runs an operation and returns its result."""
    return _method(operation)


def async_call(operation: Callable[P, Operation[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the coroutine method that runs an operation and returns its result."""
    return _method(operation, awaited=True)


def sync_method(operation: Callable[Concatenate[Any, P], Operation[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method of a handle that runs an operation of its core and returns its result."""
    return _method(operation, of_core=True)


def async_method(
    operation: Callable[Concatenate[Any, P], Operation[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the coroutine method of a handle that runs an operation of its core and returns its result."""
    return _method(operation, awaited=True, of_core=True)


def sync_chain(operation: Callable[Concatenate[Any, P], Operation[Any]]) -> Callable[Concatenate[H, P], H]:
    """Return the method of a handle that runs an operation of its core and returns the handle."""
    return _method(operation, of_core=True, chained=True)


def async_chain(
    operation: Callable[Concatenate[Any, P], Operation[Any]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, H]]:
    """Return the coroutine method of a handle that runs an operation of its core and returns the handle."""
    return _method(operation, awaited=True, of_core=True, chained=True)


def _method(
    operation: Callable[..., Operation[Any]], *, awaited: bool = False, of_core: bool = False, chained: bool = False
) -> Callable[..., Any]:
    """Return a method with its operation's name, words and signature, and a `self`."""

    def run(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._run(operation(*((self._core,) if of_core else ()), *args, **kwargs))

    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = run(self, args, kwargs)
        return self if chained else result

    async def awaited_call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = await run(self, args, kwargs)
        return self if chained else result

    signature = inspect.signature(operation, eval_str=False)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = "Self" if chained else get_args(signature.return_annotation)[-1]
    others = [one for one in signature.parameters.values() if one.name != "self"]
    method: Callable[..., Any] = wraps(operation)(awaited_call if awaited else call)
    shown = signature.replace(parameters=[own, *others], return_annotation=result)
    method.__signature__ = shown  # type: ignore[attr-defined]  # `inspect` looks for it
    return method
