"""Binding in one pass over each row with what stands before it: activation, normalisation, the constant 1.

For inference on the CPU. Eager operations read and write every row once each (activation, normalisation,
constant, gathered contexts, products, sum); here a row stays in the cache from the matrix product before it
to the one after it. A kernel on one thread takes microseconds and keeps Python's lock: to get it back from
a busy event loop takes longer. The kernels are compiled by numba where that is installed; where it is not,
`kernel_for` gives None, and the plain path computes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from superposed.contexts import Family

numba: Any
try:
    import numba
except ModuleNotFoundError:  # an extra; what is below is then never compiled
    numba = None

Array = NDArray[np.floating[Any]]
# (rows (B, n), contexts (K, ...), slots (B,), bound rows (B, width), epsilon of the normalisation)
Kernel = Callable[[Array, Array, NDArray[np.int64], Array, float], None]

# With fewer numbers a second thread costs more than it brings.
_PARALLEL_FROM = 65_536
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


def kernel_for(family: Family[Any], layout: Layout, *, relu: bool, normalise: bool) -> Kernel | None:
    """Return the fused kernel of a family; None where there is none for it, or no numba.

    Args:
        family: The context family.
        layout: Of the bound rows.
        relu: Whether negative numbers are set to 0 first.
        normalise: Whether each row is then brought to mean 0 and variance 1.
    """
    if numba is None or family.name not in {"phase", "complex", "cyclic", "binary"}:
        return None
    alone, together = (_signs, _signs_parallel) if family.name == "binary" else (_turns, _turns_parallel)

    places = tuple(layout)

    @lru_cache  # numba takes longer to look at new ones than a short row takes to bind
    def constants(number: Any, width: int, epsilon: float) -> tuple[Any, ...]:
        return number(0), number(1), number(width), number(epsilon), relu, normalise

    def run(rows: Array, contexts: Array, slots: NDArray[np.int64], bound: Array, epsilon: float) -> None:
        threads = 1
        if bound.size >= _PARALLEL_FROM:
            threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
        if threads > 1:
            numba.set_num_threads(threads)
        # A number of another width than the rows' would make all the arithmetic wider.
        number: Any = rows.dtype.type
        known = constants(number, rows.shape[1], epsilon)
        (together if threads > 1 else alone)(rows, contexts, slots, bound, places, known)

    return run


def _compiled(parallel: bool = False) -> Callable[[Any], Any]:
    if numba is None:
        return lambda function: function
    # Sums may be taken in another order, but what is not finite stays so: the service looks for it.
    options = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy", "nogil": parallel}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, parallel=parallel, **options)(function)
        except RuntimeError:  # no folder to keep it in: it is compiled anew by each process
            return numba.njit(parallel=parallel, **options)(function)

    return decorate


@_compiled()
def _scale(row: Any, known: Any) -> Any:
    """Return the shift and the factor of a row's numbers (layer normalisation, no learned scale)."""
    zero, one, count, epsilon, relu, normalise = known
    if not normalise:
        return zero, one
    total = zero
    for j in range(len(row)):
        total += max(row[j], zero) if relu else row[j]
    mean = total / count
    spread = zero
    for j in range(len(row)):
        distance = (max(row[j], zero) if relu else row[j]) - mean
        spread += distance * distance
    return mean, one / np.sqrt(spread / count + epsilon)


@_compiled()
def _turn(row: Any, context: Any, top: Any, bottom: Any, layout: Any, known: Any, scale: Any) -> None:
    """Turn the pairs of one row by the phases of one block: context is (2, pairs)."""
    first, second, offset, constant, _ = layout
    zero, one, relu = known[0], known[1], known[4]
    mean, factor = scale
    cosine, sine = context[0], context[1]
    both, pairs = min(first, second), len(cosine)
    left, right = row[:both], row[offset : offset + both]
    for j in range(both):
        a = ((max(left[j], zero) if relu else left[j]) - mean) * factor
        b = ((max(right[j], zero) if relu else right[j]) - mean) * factor
        top[j] = a * cosine[j] - b * sine[j]
        bottom[j] = a * sine[j] + b * cosine[j]
    for j in range(both, pairs):  # where one half is longer, the constant, and the padding
        a = b = zero
        if j < first:
            a = ((max(row[j], zero) if relu else row[j]) - mean) * factor
        elif j == constant:
            a = one
        if j < second:
            b = ((max(row[offset + j], zero) if relu else row[offset + j]) - mean) * factor
        elif pairs + j == constant:
            b = one
        top[j] = a * cosine[j] - b * sine[j]
        bottom[j] = a * sine[j] + b * cosine[j]


@_compiled()
def _turns(rows: Any, contexts: Any, slots: Any, bound: Any, layout: Any, known: Any) -> None:
    """Turn pairs of numbers by phases: contexts are (K, 2, pairs of all blocks), cosines and sines."""
    pairs = contexts.shape[2]
    step = pairs // layout[4]
    for number in range(len(rows)):
        row, out = rows[number], bound[number]
        scale = _scale(row, known)
        for start in range(0, pairs, step):
            end = start + step
            context = contexts[slots[number], :, start:end]
            _turn(row, context, out[start:end], out[pairs + start : pairs + end], layout, known, scale)


@_compiled()
def _signs(rows: Any, contexts: Any, slots: Any, bound: Any, layout: Any, known: Any) -> None:
    """Flip the signs of numbers: contexts are (K, width of all blocks)."""
    first, _, _, constant, blocks = layout
    zero, relu = known[0], known[4]
    width = contexts.shape[1] // blocks
    for number in range(len(rows)):
        row = rows[number]
        mean, factor = _scale(row, known)
        for start in range(0, blocks * width, width):
            context = contexts[slots[number], start : start + width]
            out = bound[number, start : start + width]
            for j in range(first):
                out[j] = ((max(row[j], zero) if relu else row[j]) - mean) * factor * context[j]
            if constant >= 0:
                out[constant] = context[constant]


if numba is not None:

    @_compiled(parallel=True)
    def _turns_parallel(rows: Any, contexts: Any, slots: Any, bound: Any, layout: Any, known: Any) -> None:
        for block in numba.prange((len(rows) + _PARALLEL_ROWS - 1) // _PARALLEL_ROWS):
            of = slice(block * _PARALLEL_ROWS, (block + 1) * _PARALLEL_ROWS)
            _turns(rows[of], contexts, slots[of], bound[of], layout, known)

    @_compiled(parallel=True)
    def _signs_parallel(rows: Any, contexts: Any, slots: Any, bound: Any, layout: Any, known: Any) -> None:
        for block in numba.prange((len(rows) + _PARALLEL_ROWS - 1) // _PARALLEL_ROWS):
            of = slice(block * _PARALLEL_ROWS, (block + 1) * _PARALLEL_ROWS)
            _signs(rows[of], contexts, slots[of], bound[of], layout, known)
