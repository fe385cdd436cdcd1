"""Names of `superposed` itself."""

from superposed.analysis.capacity import Capacity, capacity
from superposed.analysis.retrieval import RetrievedModel, retrieve_model
from superposed.config import MLPConfig, OptimizerConfig, StoreConfig
from superposed.contexts import Mixture, Power, Task, family_named, parse, seeded_secret
from superposed.learning.groups import register
from superposed.learning.online import UpdateResult, apply, evaluate, learn
from superposed.store.losses import Measured
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch, ResolvedContext
from superposed.tasks.registry import TaskState
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["MLPConfig", "OptimizerConfig", "StoreConfig", "TaskSchema", "TaskState", "WeightStore", "register"]
__all__ += ["Mixture", "Power", "Task", "family_named", "parse", "seeded_secret"]
__all__ += ["Batch", "Measured", "ResolvedContext", "Targets", "UpdateResult", "apply", "evaluate", "learn"]
__all__ += ["Capacity", "RetrievedModel", "capacity", "retrieve_model"]
