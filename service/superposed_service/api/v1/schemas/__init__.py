"""The bodies of the native API, as they are documented and checked (see docs/http-api.md)."""

from superposed_service.api.v1.schemas.api_keys import ApiKeyBody, ApiKeyRequest, NewApiKeyBody
from superposed_service.api.v1.schemas.history import RollbackAnswer, RollbackBody, SnapshotBody
from superposed_service.api.v1.schemas.inference import (
    EvaluateAnswer,
    EvaluateBody,
    InferAnswer,
    InferBody,
    ReturnField,
    UpdateAnswer,
    UpdateBody,
)
from superposed_service.api.v1.schemas.locate import (
    ConsolidateAnswer,
    ConsolidateBody,
    LearnModelAnswer,
    LocateAnswer,
    LocateBody,
)
from superposed_service.api.v1.schemas.quarantine import QuarantineAnswer, QuarantineBody, QuarantineEntry
from superposed_service.api.v1.schemas.store import CapacityBody, InterferenceBody, ProblemBody, StoreBody
from superposed_service.api.v1.schemas.tasks import (
    ErasureAnswer,
    EvaluationBody,
    TaskBody,
    TaskPage,
    TaskRegistration,
)

__all__ = [
    "ApiKeyBody",
    "ApiKeyRequest",
    "CapacityBody",
    "ConsolidateAnswer",
    "ConsolidateBody",
    "ErasureAnswer",
    "EvaluateAnswer",
    "EvaluateBody",
    "EvaluationBody",
    "InferAnswer",
    "InferBody",
    "InterferenceBody",
    "LearnModelAnswer",
    "LocateAnswer",
    "LocateBody",
    "NewApiKeyBody",
    "ProblemBody",
    "QuarantineAnswer",
    "QuarantineBody",
    "QuarantineEntry",
    "ReturnField",
    "RollbackAnswer",
    "RollbackBody",
    "SnapshotBody",
    "StoreBody",
    "TaskBody",
    "TaskPage",
    "TaskRegistration",
    "UpdateAnswer",
    "UpdateBody",
]
