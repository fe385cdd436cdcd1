"""The cell of a new task: the one that a pattern names, or the winner of a rendezvous hash."""

import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase


def choose_cell(key: str, group: str | None, cells: Iterable[str], patterns: Mapping[str, str]) -> str:
    """Return the cell of a new task; tasks of one group, or with the same text before a dot in their keys, share one.

    `patterns` are patterns of groups or keys (`*` and `?`), each with a cell: the first that fits counts. Without
    one it is rendezvous hashing (Thaler and Ravishankar 1998), so that a further cell takes only its own share.
    """
    name = group or key
    for pattern, cell in patterns.items():
        if fnmatchcase(name, pattern):
            return cell
    tenant = name.partition(".")[0]
    return max(cells, key=lambda cell: hashlib.sha256(f"{cell}\n{tenant}".encode()).digest())
