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

from superposed.batch import Batch, ResolvedContext
from superposed.capacity import Capacity, capacity
from superposed.config import MLPConfig, OptimizerConfig, StoreConfig
from superposed.contexts import Mixture, Power, Task, family_named, parse, seeded_secret
from superposed.learning import Measured, UpdateResult, apply, evaluate, learn
from superposed.retrieval import RetrievedModel, retrieve, retrieve_model, superpose
from superposed.store import WeightStore
from superposed.targets import Targets
from superposed.task_schema import TaskSchema
from superposed.tasks import TaskState

__all__ = [
    "Batch",
    "Capacity",
    "MLPConfig",
    "Measured",
    "Mixture",
    "OptimizerConfig",
    "Power",
    "ResolvedContext",
    "RetrievedModel",
    "StoreConfig",
    "Targets",
    "Task",
    "TaskSchema",
    "TaskState",
    "UpdateResult",
    "WeightStore",
    "apply",
    "capacity",
    "evaluate",
    "family_named",
    "learn",
    "parse",
    "retrieve",
    "retrieve_model",
    "seeded_secret",
    "superpose",
]
