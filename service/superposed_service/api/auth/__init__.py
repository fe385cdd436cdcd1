"""API keys, scopes and task-key patterns; quotas and cross-site requests."""

from superposed_service.api.auth.api_keys import create, keys_body, revoke, rotate
from superposed_service.api.auth.authorization import ACCESS_RULES, Access, Principal, admit, principal_of
from superposed_service.api.auth.csrf import check_site

__all__ = [
    "ACCESS_RULES",
    "Access",
    "Principal",
    "admit",
    "check_site",
    "create",
    "keys_body",
    "principal_of",
    "revoke",
    "rotate",
]
