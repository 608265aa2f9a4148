"""What a process says while it works: events with key=value pairs, on standard error."""

import logging
import sys
from typing import Any, Final

import structlog

from snaphold.cli.output import printable
from snaphold.config import Settings

# Libraries whose INFO is about themselves.
_FIRST_KEYS: Final = ("timestamp", "level", "process", "event")
_QUIET: Final = ("alembic", "dbos", "httpcore", "httpx", "uvicorn", "asyncio", "sqlalchemy")


def _escaped(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: _printable_value(value) for key, value in event.items()}


def _printable_value(value: Any) -> Any:
    """Lines stay lines: what writes them escapes their ends."""
    if value is None or isinstance(value, (int, float)):
        return value
    return "\n".join(map(printable, str(value).split("\n")))


def set_up_logs(settings: Settings, process: str) -> None:
    """Send the events of structlog and the records of logging to standard error, in the format of the settings.

    ``process`` names the process in each line: ``agent``, ``DFW`` …
    """

    def name_process(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        name_process,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [_escaped, structlog.processors.LogfmtRenderer(key_order=_FIRST_KEYS, drop_missing=True)]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
