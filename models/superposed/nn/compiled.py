"""Functions that numba compiles, and keeps compiled in the package's folder."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(*, parallel: bool = False) -> Callable[[Any], Any]:
    """Return a decorator that compiles a function at its first call with arguments of some types.

    What is computed is what the source says, operation by operation: a compiler that may order sums otherwise does
    so differently where a function is inlined, and a store would depend on the process that compiled it.
    """
    options: dict[str, Any] = {"error_model": "numpy", "nogil": parallel}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, parallel=parallel, **options)(function)
        except RuntimeError:  # no folder to keep it in: it is compiled anew by each process
            return numba.njit(parallel=parallel, **options)(function)

    return decorate
