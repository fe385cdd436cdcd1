"""Who may do what: API keys, scopes, task-key patterns."""

from superposed_service.security.access import ACCESS_RULES, Access, Principal, admit, principal_of
from superposed_service.security.keys import create, keys_body, revoke, rotate
from superposed_service.security.sites import check_site

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
