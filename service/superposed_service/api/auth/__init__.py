"""API keys, scopes and task-key patterns; quotas."""

from superposed_service.api.auth.authorization import (
    Access,
    Principal,
    create,
    keys_body,
    principal_of,
    requires,
    revoke,
    rotate,
)

__all__ = ["Access", "Principal", "create", "keys_body", "principal_of", "requires", "revoke", "rotate"]
