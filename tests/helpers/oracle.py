"""Dense context matrices, built from the definitions alone: what every family is checked against."""

from __future__ import annotations

import hashlib

import numpy as np
import scipy.linalg

SECRET = bytes(range(32))


def derived(names: tuple[str, ...], purpose: str, count: int) -> bytes:
    """SHAKE-256 over length-prefixed parts, written out again from METHOD.md."""
    hasher = hashlib.shake_256()
    parts = [b"superposed.context", (1).to_bytes(4, "little"), SECRET]
    for part in [*parts, *(name.encode() for name in names), purpose.encode()]:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest(count)


def uniforms(names: tuple[str, ...], purpose: str, count: int) -> np.ndarray:
    raw = derived(names, purpose, 8 * count)
    return np.array([int.from_bytes(raw[8 * i : 8 * i + 8], "little") >> 11 for i in range(count)]) / 2.0**53


def task_names(key: str) -> tuple[str, ...]:
    return ("context", "layers.0", key, "0")


def signs(key: str, features: int) -> np.ndarray:
    raw = derived(task_names(key), "signs", (features + 7) // 8)
    return np.array([1.0 if raw[i // 8] >> (i % 8) & 1 else -1.0 for i in range(features)])


def phases(key: str, count: int) -> np.ndarray:
    return (2 * uniforms(task_names(key), "phases", count) - 1) * np.pi


def frequencies(key: str, count: int) -> np.ndarray:
    half = (count + 1) // 2
    u = uniforms(task_names(key), "frequencies", 2 * half)
    radius, angle = np.sqrt(-2 * np.log(1 - u[:half])), 2 * np.pi * u[half:]
    return np.round(np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count])


def turn(angles: np.ndarray) -> np.ndarray:
    """A rotation of every pair (j, j + n): the dense matrix of given phases."""
    n = len(angles)
    matrix = np.zeros((2 * n, 2 * n))
    for j, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        matrix[j, j], matrix[j, n + j], matrix[n + j, j], matrix[n + j, n + j] = c, -s, s, c
    return matrix


def haar(key: str, features: int) -> np.ndarray:
    half = (features * features + 1) // 2
    u = uniforms(task_names(key), "normals", 2 * half)
    radius, angle = np.sqrt(-2 * np.log(1 - u[:half])), 2 * np.pi * u[half:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: features * features]
    q, r = np.linalg.qr(normal.reshape(features, features))
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q


def pairs(family: str, features: int) -> int:
    return features if family == "complex" else (features + 1) // 2


def generator(family: str, key: str, features: int, exponent: float | None) -> np.ndarray:
    """The skew matrix A of one task's share, `exp(A) = C`; for binary the signs themselves."""
    if family == "rotation":
        log = scipy.linalg.logm(haar(key, features)).real
        return log * (1.0 if exponent is None else exponent)
    count = pairs(family, features)
    angles = phases(key, count)
    if family == "cyclic":
        angles = angles + 2 * np.pi * frequencies(key, count) * (0.0 if exponent is None else exponent)
    elif exponent is not None:
        angles = angles * exponent
    skew = np.zeros((2 * count, 2 * count))
    for j, angle in enumerate(angles):
        skew[j, count + j], skew[count + j, j] = -angle, angle
    return skew


def dense(family: str, key: str, features: int) -> np.ndarray:
    """One task's context matrix."""
    if family == "binary":
        return np.diag(signs(key, features))
    if family == "rotation":
        return haar(key, features)
    return turn(phases(key, pairs(family, features)))


def composed(family: str, shares: list[tuple[str, float, float | None]], features: int) -> np.ndarray:
    """`exp(sum of weight x exponent x generator)`: a composition's matrix."""
    total = sum(weight * generator(family, key, features, exponent) for key, weight, exponent in shares)
    return scipy.linalg.expm(total)
