"""API keys, scopes and task-key patterns; quotas and cross-site requests."""

from superposed_service.api.auth.authentication import create, keys_body, revoke, rotate
from superposed_service.api.auth.authorization import Access, Principal, principal_of, requires
from superposed_service.api.auth.csrf import check_site

__all__ = ["Access", "Principal", "check_site", "create", "keys_body", "principal_of", "requires", "revoke", "rotate"]
