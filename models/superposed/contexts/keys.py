"""Deriving random numbers from a secret: the same inputs, the same numbers, everywhere and for ever.

A context is never stored. It is drawn again whenever it is needed from the store's secret, the
layer's name, the task key and the key's generation, through SHAKE-256. `DERIVATION_VERSION` names
the way the bytes are made; it may only change together with a new set of golden vectors.
"""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superposed.errors import ConfigError

DERIVATION_VERSION = 1
SECRET_BYTES = 32
KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_DOMAIN = b"superposed.context"


@dataclass(frozen=True, order=True)
class TaskId:
    """The identity that a task's contexts are derived from.

    Args:
        key: The task key.
        generation: Tells a re-registered key from the deleted one.
        group: The key of the task's group; empty where it has none.
        group_generation: The group's generation.
        own_layers: How many of the last layers bind the task's own context; those before bind its group's.
    """

    key: str
    generation: int = 0
    group: str = ""
    group_generation: int = 0
    own_layers: int = 0

    def bound_in(self, layers_left: int) -> "TaskId":
        """Return the identity whose context a layer binds: the task's own, or its group's in shared layers.

        `layers_left` counts the layers from this one to the last; 1 for the last.
        """
        if self.group and layers_left > self.own_layers:
            return TaskId(self.group, self.group_generation)
        return self


def seeded_secret(seed: int) -> bytes:
    """Make a secret from a number, 0 or more (else `ConfigError`), for tests and experiments: it protects nothing."""
    if seed < 0:
        raise ConfigError("a seed is a whole number", expected="0 or more", received=seed)
    return hashlib.sha256(b"superposed.seed" + str(seed).encode()).digest()


@dataclass(frozen=True)
class Stream:
    """An endless string of derived bytes, addressed by a secret and a list of names.

    Every part is length-prefixed, so no two different lists of names give the same string. The names say what
    the numbers are for, for example `("context", layer, key, "0")`. Raises `ConfigError` for a secret not of 32 bytes.
    """

    secret: bytes
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            expected = f"{SECRET_BYTES} bytes"
            raise ConfigError("the secret has the wrong length", expected=expected, received=len(self.secret))

    @classmethod
    def for_task(cls, secret: bytes, layer: str, task: TaskId) -> "Stream":
        """Return the stream that a task's context in one layer is drawn from."""
        return cls(secret, ("context", layer, task.key, str(task.generation)))

    def bytes(self, count: int, purpose: str) -> bytes:
        """Return the first `count` bytes drawn for `purpose`."""
        head = (_DOMAIN, DERIVATION_VERSION.to_bytes(4, "little"), self.secret)
        parts = (*head, *(name.encode() for name in self.names), purpose.encode())
        message = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        return hashlib.shake_256(message).digest(count)

    def signs(self, count: int) -> NDArray[np.float64]:
        """Draw `count` independent numbers, each -1 or +1 with equal probability, float64 (count,)."""
        raw = np.frombuffer(self.bytes((count + 7) // 8, "signs"), dtype=np.uint8)
        bits = np.unpackbits(raw, bitorder="little")[:count]
        return bits.astype(np.float64) * 2.0 - 1.0

    def uniforms(self, count: int, purpose: str = "uniforms") -> NDArray[np.float64]:
        """Draw `count` independent numbers uniform on [0, 1), 53 bits each, float64 (count,)."""
        raw = np.frombuffer(self.bytes(8 * count, purpose), dtype="<u8")
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normals(self, count: int, purpose: str = "normals") -> NDArray[np.float64]:
        """Draw `count` independent standard normal numbers by the Box-Muller method, float64 (count,)."""
        half = (count + 1) // 2
        uniform = self.uniforms(2 * half, purpose).reshape(2, half)
        radius = np.sqrt(-2.0 * np.log1p(-uniform[0]))
        angle = 2.0 * np.pi * uniform[1]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
