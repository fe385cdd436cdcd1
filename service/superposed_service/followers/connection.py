"""Connections to the other servers of a store."""

from typing import Any

import httpx

from superposed_service.settings import Settings

WAIT_S = 1.0  # for new records, in one request


def client_options(settings: Settings, url: str) -> dict[str, Any]:
    """Return what a client of another of the store's servers is made with."""
    key = settings.follow_api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url, "headers": headers, "timeout": httpx.Timeout(5.0, read=WAIT_S + 10.0)}
