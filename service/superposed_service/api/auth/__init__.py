"""API keys, scopes and task-key patterns; quotas."""

from superposed_service.api.auth.authorization import (
    Access,
    Principal,
    begin_with,
    create,
    keys_body,
    principal_of,
    requires,
    revoke,
    rotate,
    take_keys,
)

__all__ = ["Access", "Principal", "begin_with", "create", "keys_body", "principal_of", "requires", "revoke", "rotate"]
__all__ += ["take_keys"]
