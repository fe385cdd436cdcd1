"""Binding in one pass over each row with what stands before it: ReLU, normalisation, the constant 1.

For the CPU, forwards and backwards. Eager operations read and write every row once each (ReLU, normalisation,
constant, gathered contexts, products, sum); here a row stays in the cache from the matrix product before it
to the one after it. A kernel on one thread takes microseconds and keeps Python's lock: to get it back from
a busy event loop takes longer. Where there are no kernels, the plain path computes the same to rounding.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from superposed.nn.compiled import compiled

# With fewer numbers a second thread costs more than it brings.
PARALLEL_FROM = 65_536
_PARALLEL_ROWS = 32


class Layout(NamedTuple):
    """Sources of a bound row's numbers.

    For a family that turns pairs, number j of the first half is turned with number j of the second half;
    `first` and `second` of them come from the row, the second half's from `offset` on. For one that flips
    signs `first` is the whole row. `constant` is the place of the constant 1 in the row, -1 for none. An
    expanded context has several `blocks`, each of them bound with the row.
    """

    first: int
    second: int
    offset: int
    constant: int
    blocks: int = 1


@dataclass(frozen=True)
class FusedBinding:
    """The fused kernels of one layer. Rows, contexts and slots are contiguous, on the CPU.

    Contexts flip `signs`, (K, width), or turn pairs, (K, 2, pairs). `layout` is the `Layout` of the bound rows, as a
    plain tuple. With `relu` negative numbers are set to 0 first; with `normalise` each row is then brought to mean 0
    and variance 1, with that `epsilon`.
    """

    signs: bool
    layout: tuple[int, ...]
    relu: bool
    normalise: bool
    epsilon: float

    def bind(self, rows: Tensor, contexts: Tensor, slots: Tensor) -> Tensor:
        """Return rows (B, n) bound: (B, bound width)."""
        bound = rows.new_empty(rows.shape[0], math.prod(contexts.shape[1:]))
        kernel = _bind_parallel if _threads(bound) > 1 else _signs if self.signs else _turns
        kernel(rows.numpy(), contexts.numpy(), slots.numpy(), bound.numpy(), self.layout, self._known(rows))
        return bound

    def gradient(self, rows: Tensor, contexts: Tensor, slots: Tensor, bound: Tensor) -> Tensor:
        """Return the gradient in rows (B, n) from that in the bound rows: a context is orthogonal."""
        found = torch.empty_like(rows)
        kernel = _unbind_parallel if _threads(bound) > 1 else _unsigns if self.signs else _unturns
        tensors = (rows.numpy(), contexts.numpy(), slots.numpy(), bound.numpy(), found.numpy())
        kernel(*tensors, self.layout, self._known(rows))
        return found

    def _known(self, rows: Tensor) -> tuple[Any, ...]:
        return _constants(rows.dtype, rows.shape[1], self.epsilon, self.relu, self.normalise)


def _threads(bound: Tensor) -> int:
    """Return the number of threads for bound rows, and have numba use as many."""
    threads = torch.get_num_threads() if bound.numel() >= PARALLEL_FROM else 1
    if threads > 1:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]  # made at import
        if torch.get_num_threads() != threads:  # the first call starts numba's own, and sets torch's too
            torch.set_num_threads(threads)
    return threads


@lru_cache(4096)  # numba takes longer to look at new ones than a short row takes to bind
def _constants(dtype: torch.dtype, width: int, epsilon: float, relu: bool, normalise: bool) -> tuple[Any, ...]:
    # A number of another width than the rows' would make all the arithmetic wider.
    number: Any = np.float64 if dtype == torch.float64 else np.float32
    return number(0), number(1), number(width), number(epsilon), relu, normalise


@compiled()
def _empty(rows: Any) -> Any:
    return np.empty(rows.shape[1], rows.dtype)


@compiled()
def _total(values: Any, eighth: Any, zero: Any) -> Any:
    """Return the sum of numbers: first of eight parts, number by number into `eighth`, then of what that holds.

    The order is written out, as fast as a compiler's own, which would be another one wherever this is inlined.
    """
    step = len(values) // 8
    for j in range(step):
        low = (values[j] + values[step + j]) + (values[2 * step + j] + values[3 * step + j])
        high = (values[4 * step + j] + values[5 * step + j]) + (values[6 * step + j] + values[7 * step + j])
        eighth[j] = low + high
    total = zero
    for j in range(8 * step, len(values)):
        total += values[j]
    a = b = c = d = zero
    for j in range(0, step // 4 * 4, 4):
        a, b, c, d = a + eighth[j], b + eighth[j + 1], c + eighth[j + 2], d + eighth[j + 3]
    for j in range(step // 4 * 4, step):
        total += eighth[j]
    return total + ((a + b) + (c + d))


@compiled()
def _ready(row: Any, out: Any, spare: Any, eighth: Any, known: Any) -> Any:
    """Write a row after ReLU and normalisation to `out`; return the factor of the normalisation.

    `spare` and `eighth` are as long, and are written to, here and in `_back`.
    """
    zero, one, count, epsilon, relu, normalise = known
    for j in range(len(row)):
        out[j] = row[j]
    if relu:
        for j in range(len(row)):  # not a maximum: what is not a number stays so
            out[j] = zero if row[j] < zero else row[j]
    if not normalise:
        return one
    mean = _total(out, eighth, zero) / count
    for j in range(len(row)):
        out[j] -= mean
        spare[j] = out[j] * out[j]
    spread = _total(spare, eighth, zero)
    # A row too large to normalise becomes no number, and is refused: 0 would be an answer to any such row.
    factor = spread - spread if spread == np.inf else one / np.sqrt(spread / count + epsilon)
    for j in range(len(row)):
        out[j] *= factor
    return factor


@compiled()
def _turns(rows: Any, contexts: Any, slots: Any, bound: Any, layout: Any, known: Any) -> None:
    """Turn pairs of numbers by phases: contexts are (K, 2, pairs of all blocks), cosines and sines."""
    first, second, offset, constant, blocks = layout
    zero, one = known[0], known[1]
    pairs = contexts.shape[2]
    step, both = pairs // blocks, min(first, second)
    row, spare, eighth = _empty(rows), _empty(rows), _empty(rows)
    left, right = row[:both], row[offset : offset + both]
    for number in range(len(rows)):
        _ready(rows[number], row, spare, eighth, known)
        for start in range(0, pairs, step):
            cosine, sine = contexts[slots[number], 0, start:], contexts[slots[number], 1, start:]
            top, bottom = bound[number, start:], bound[number, pairs + start :]
            for j in range(both):
                a, b = left[j], right[j]
                top[j] = a * cosine[j] - b * sine[j]
                bottom[j] = a * sine[j] + b * cosine[j]
            for j in range(both, step):  # where one half is longer, the constant, and the padding
                a = row[j] if j < first else one if j == constant else zero
                b = row[offset + j] if j < second else one if step + j == constant else zero
                top[j] = a * cosine[j] - b * sine[j]
                bottom[j] = a * sine[j] + b * cosine[j]


@compiled()
def _signs(rows: Any, contexts: Any, slots: Any, bound: Any, layout: Any, known: Any) -> None:
    """Flip the signs of numbers: contexts are (K, width of all blocks)."""
    first, _, _, constant, blocks = layout
    width = contexts.shape[1] // blocks
    row, spare, eighth = _empty(rows), _empty(rows), _empty(rows)
    for number in range(len(rows)):
        _ready(rows[number], row, spare, eighth, known)
        for start in range(0, blocks * width, width):
            context, out = contexts[slots[number], start:], bound[number, start:]
            for j in range(first):
                out[j] = row[j] * context[j]
            if constant >= 0:
                out[constant] = context[constant]


@compiled()
def _unturns(rows: Any, contexts: Any, slots: Any, gradient: Any, found: Any, layout: Any, known: Any) -> None:
    """Set `found` to the gradient in rows from that in their turned ones."""
    first, second, offset, _, blocks = layout
    pairs = contexts.shape[2]
    step, both = pairs // blocks, min(first, second)
    row, out, spare, eighth = _empty(rows), _empty(rows), _empty(rows), _empty(rows)
    left, right = out[:both], out[offset : offset + both]
    for number in range(len(rows)):
        out[:] = known[0]
        for start in range(0, pairs, step):
            cosine, sine = contexts[slots[number], 0, start:], contexts[slots[number], 1, start:]
            top, bottom = gradient[number, start:], gradient[number, pairs + start :]
            for j in range(both):
                a, b = top[j], bottom[j]
                left[j] += a * cosine[j] + b * sine[j]
                right[j] += b * cosine[j] - a * sine[j]
            for j in range(both, first):
                out[j] += top[j] * cosine[j] + bottom[j] * sine[j]
            for j in range(both, second):
                out[offset + j] += bottom[j] * cosine[j] - top[j] * sine[j]
        _back(rows[number], row, out, spare, eighth, found[number], known)


@compiled()
def _unsigns(rows: Any, contexts: Any, slots: Any, gradient: Any, found: Any, layout: Any, known: Any) -> None:
    """Set `found` to the gradient in rows from that in their flipped ones."""
    first, blocks = layout[0], layout[4]
    width = contexts.shape[1] // blocks
    row, out, spare, eighth = _empty(rows), _empty(rows), _empty(rows), _empty(rows)
    for number in range(len(rows)):
        out[:] = known[0]
        for start in range(0, blocks * width, width):
            context, own = contexts[slots[number], start:], gradient[number, start:]
            for j in range(first):
                out[j] += own[j] * context[j]
        _back(rows[number], row, out, spare, eighth, found[number], known)


@compiled()
def _back(source: Any, row: Any, gradient: Any, spare: Any, eighth: Any, found: Any, known: Any) -> None:
    """Take the gradient of one row back through normalisation and ReLU to `found`; `row` is written to."""
    zero, _, count, _, relu, normalise = known
    if normalise:
        factor = _ready(source, row, spare, eighth, known)
        total = _total(gradient, eighth, zero) / count
        for j in range(len(row)):
            spare[j] = gradient[j] * row[j]
        along = _total(spare, eighth, zero) / count
        for j in range(len(row)):
            gradient[j] = (gradient[j] - total - along * row[j]) * factor
    for j in range(len(row)):
        found[j] = gradient[j]
    if relu:
        for j in range(len(row)):
            found[j] = gradient[j] if source[j] > zero else zero


@compiled(parallel=True)
def _bind_parallel(rows: Any, contexts: Any, slots: Any, bound: Any, layout: Any, known: Any) -> None:
    for block in numba.prange((len(rows) + _PARALLEL_ROWS - 1) // _PARALLEL_ROWS):
        of = slice(block * _PARALLEL_ROWS, (block + 1) * _PARALLEL_ROWS)
        if contexts.ndim == 3:  # decided when it is compiled
            _turns(rows[of], contexts, slots[of], bound[of], layout, known)
        else:
            _signs(rows[of], contexts, slots[of], bound[of], layout, known)


@compiled(parallel=True)
def _unbind_parallel(rows: Any, contexts: Any, slots: Any, gradient: Any, found: Any, layout: Any, known: Any) -> None:
    for block in numba.prange((len(rows) + _PARALLEL_ROWS - 1) // _PARALLEL_ROWS):
        of = slice(block * _PARALLEL_ROWS, (block + 1) * _PARALLEL_ROWS)
        if contexts.ndim == 3:
            _unturns(rows[of], contexts, slots[of], gradient[of], found[of], layout, known)
        else:
            _unsigns(rows[of], contexts, slots[of], gradient[of], found[of], layout, known)
