"""The library's errors, in one tree, and `redacted` descriptions for their messages. No HTTP codes."""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class SuperposedError(Exception):
    """Base of every error that this library raises on purpose: a message, what was `expected`, what was `received`.

    `code` is the stored name of the class, in journals and metrics: it stays when the class is renamed. `by_code` has
    the class of each.
    """

    code: ClassVar[str] = "SuperposedError"
    by_code: ClassVar[dict[str, type["SuperposedError"]]] = {}

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        super().__init_subclass__()
        if code is None:
            return  # a class of the user's own has the code of its base
        if code in cls.by_code:
            raise ValueError(f"two classes with the code {code}")
        cls.code = code
        cls.by_code[code] = cls

    def __init__(self, message: str, *, expected: object = None, received: object = None) -> None:
        super().__init__(message)
        self.message, self.expected, self.received = message, expected, received

    def __str__(self) -> str:
        parts = [self.message]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.received is not None:
            parts.append(f"received {self.received}")
        return "; ".join(parts)


class ConfigError(SuperposedError, code="ConfigError"):
    """A store, network or data set that cannot be built as described."""


class EncoderUnavailable(SuperposedError, code="EncoderUnavailable"):
    """An encoder whose model or package is not there, or is another than the store was made with."""


class InputError(SuperposedError, ValueError, code="InputError"):
    """The input cannot be used."""


class ShapeError(InputError, code="ShapeError"):
    """Wrong number of rows, features or outputs."""


class NonFiniteInput(InputError, code="NonFiniteInput"):
    """NaN or infinity among the numbers."""


class LabelOutOfRange(InputError, code="LabelOutOfRange"):
    """A target that the task does not have."""


class EmptyBatch(InputError, code="EmptyBatch"):
    """No rows."""


class ContextError(SuperposedError, code="ContextError"):
    """A context that cannot be addressed."""


class ExpressionInvalid(ContextError, ValueError, code="ExpressionInvalid"):
    """Text or JSON that is no context expression."""


class UnknownTask(ContextError, code="UnknownTask"):
    """A task key that is not registered."""


class TaskExists(ContextError, code="TaskExists"):
    """A key that is registered with another schema."""


class SchemaChanged(ContextError, code="SchemaChanged"):
    """A task whose schema has another version by now."""


class TaskInUse(ContextError, code="TaskInUse"):
    """A task that others are registered in, as their group."""


class CompositionNotSupported(ContextError, code="CompositionNotSupported"):
    """A mixture or power that the family or the parts do not allow."""


class UpdateError(SuperposedError, code="UpdateError"):
    """An update that was refused; the store is bit for bit as it was."""


class NonFiniteUpdate(UpdateError, code="NonFiniteUpdate"):
    """Loss or gradient is not finite."""


class UpdateTooLarge(UpdateError, code="UpdateTooLarge"):
    """The gradient's norm is above the cap."""


class CapacityExceeded(SuperposedError, code="CapacityExceeded"):
    """More of something than a stated limit allows."""


def check_most(message: str, received: int, most: int, what: str = "") -> None:
    """Raise `CapacityExceeded` with a message where more was received than there may be, of `what`."""
    if received > most:
        raise CapacityExceeded(message, expected=f"{most}{what} at most", received=received)


def redacted(value: object) -> str:
    """Return a redacted description of a value: rows and labels do not belong in errors."""
    if isinstance(value, str | bytes):
        return f"text of length {len(value)}" if isinstance(value, str) else f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return "null" if value is None else type(value).__name__
