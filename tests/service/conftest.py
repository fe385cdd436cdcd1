"""Fixtures of the service's tests."""

from tests.helpers.logs import captured

__all__ = ["captured"]
