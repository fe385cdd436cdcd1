"""Many task models in one set of weights: contexts, layers, the store, learning and retrieval.

Example:
    >>> import torch
    >>> from superposed import MLPConfig, StoreConfig, TaskSchema, WeightStore, learn
    >>> store = WeightStore(StoreConfig(network=MLPConfig(inputs=4, hidden=(32,), outputs=2)))
    >>> task, new = store.register(TaskSchema(key="sign", inputs=4, outputs=2))
    >>> x = torch.randn(8, 4)
    >>> learn(store, "sign", x, [int(row.sum() > 0) for row in x]).sequence
    2
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superposed._public import *  # noqa: F403 - re-exported


def __getattr__(name: str) -> Any:
    """Import what is asked for, and not earlier: torch takes a second, and not every use needs it."""
    public = import_module("superposed._public")
    if name not in {"__all__", *public.__all__}:
        raise AttributeError(f"module 'superposed' has no attribute {name!r}")
    return getattr(public, name)
