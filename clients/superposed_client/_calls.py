"""From an operation to the method of a client or handle that runs it: the call, its signature and its words, once."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_args, overload

from superposed_client._core import Operation

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Sync")
A = TypeVar("A", bound="Async")


class Call(Generic[P, T]):
    """An operation, of which `Sync` and `Async` make a method; called here, it returns the operation."""

    def __init__(self, operation: Callable[..., Operation[T]]) -> None:
        self._operation = operation

    @overload
    def __get__(self, handle: "Sync", kind: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, handle: "Async", kind: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, handle: None, kind: Any = None) -> Callable[Concatenate[Any, P], Operation[T]]: ...
    def __get__(self, handle: Any, kind: Any = None) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Operation[T]:
        return self._operation(*args, **kwargs)

    def method(self, *, awaited: bool) -> Callable[..., Any]:
        """Return a method with its operation's name, words and signature, and a `self`."""
        signature = inspect.signature(self._operation)

        def call(handle: Any, /, *args: Any, **kwargs: Any) -> Any:
            return handle._run(self._operation(handle, *args, **kwargs))

        async def awaited_call(handle: Any, /, *args: Any, **kwargs: Any) -> Any:
            return await call(handle, *args, **kwargs)

        result = get_args(signature.return_annotation)[-1]
        method: Callable[..., Any] = wraps(self._operation)(awaited_call if awaited else call)
        shown = signature.replace(return_annotation=result)
        method.__signature__ = shown  # type: ignore[attr-defined]  # `inspect` looks for it
        return method


class Chain(Call[P, Any]):
    """An operation of a handle that returns the handle."""

    @overload
    def __get__(self, handle: S, kind: Any = None) -> Callable[P, S]: ...
    @overload
    def __get__(self, handle: A, kind: Any = None) -> Callable[P, Coroutine[Any, Any, A]]: ...
    @overload
    def __get__(self, handle: None, kind: Any = None) -> Callable[Concatenate[Any, P], Operation[Any]]: ...
    def __get__(self, handle: Any, kind: Any = None) -> Any:
        return self


class _Runner:
    """Base of classes that have calls: `_run` runs their operations."""

    _run: Callable[[Any], Any]

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            if isinstance(call := getattr(cls, name), Call):
                setattr(cls, name, call.method(awaited=issubclass(cls, Async)))


class Sync(_Runner):
    """Base of classes whose calls return the results of their operations."""


class Async(_Runner):
    """Base of classes whose calls are coroutine methods."""


def method(operation: Callable[Concatenate[Any, P], Operation[T]]) -> Call[P, T]:
    """Return the call of an operation that a client or a handle makes."""
    return Call(operation)


def chain(operation: Callable[Concatenate[Any, P], Operation[Any]]) -> Chain[P]:
    """Return the call of an operation that a handle makes and that returns the handle."""
    return Chain(operation)
