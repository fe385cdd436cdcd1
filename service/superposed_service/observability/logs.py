"""Logs: one line an event, JSON or for people; uvicorn's through the same.

Everywhere else the standard library's `logging` is used, with what is known of an event as `extra`. Only a
server configures it, by `logging_config`.
"""

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from superposed_service.observability.request_ids import request_id
from superposed_service.settings import Settings

_LOGGERS = ("superposed", "uvicorn", "uvicorn.error")


def logging_config(settings: Settings) -> dict[str, Any]:
    """Return the value for `logging.config.dictConfig`: standard error, with the form and level set."""
    before: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_request_id,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    level = settings.log_level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "superposed": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": before,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
            }
        },
        "handlers": {"stderr": {"()": _StandardError, "formatter": "superposed"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": level, "propagate": True} for name in _LOGGERS},
    }


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment, not what it was when logs were set up."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _add_request_id(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Return the id of the request that is being served; uvicorn's copy of a line for colours goes."""
    del logger, name
    event.pop("color_message", None)
    if identifier := request_id.get():
        event.setdefault("request_id", identifier)
    return event
