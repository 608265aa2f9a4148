"""Logs of a process: events with key=value pairs, or JSON, on standard error."""

import logging
import sys
from typing import Any, Final

import structlog

from snaphold.config import Settings

_FIRST_KEYS: Final = ("timestamp", "level", "process", "event")
_QUIET: Final = (  # libraries: only their warnings are logged
    "alembic",
    "dbos",
    "httpcore",
    "httpx",
    "uvicorn",
    "asyncio",
    "sqlalchemy",
)


def printable(text: str) -> str:
    r"""The text with each character that a terminal would interpret replaced by its escape, such as ``\x1b``.

    Names of foreign objects may be any text: none may move the cursor, or begin a line that looks like one of ours.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _escaped(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: _printable_value(value) for key, value in event.items()}


def _printable_value(value: Any) -> Any:
    """Line ends are kept: the renderer escapes them."""
    if value is None or isinstance(value, (int, float)):
        return value
    return "\n".join(map(printable, str(value).split("\n")))


def set_up_logs(settings: Settings, process: str) -> None:
    """Send the events of structlog and the records of logging to standard error, in the format of the settings.

    ``process``: the name of this process in each line: ``agent``, ``DFW`` …
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
        cache_logger_on_first_use=False,  # a cached logger would keep this configuration for good
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
