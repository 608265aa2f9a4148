"""Reasons: what tenants are told of a failure. An error's message is one, as ``snaphold.errors`` has it.

A last guard stands behind that rule: a reason in which a place of this machine or an internal account is named is held
back, and the log has it instead.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from snaphold.errors import SetupError, SnapholdError

HELD_BACK: Final = "The service could not do its part; its log has the details."
_MAX: Final = 2000  # characters
_ACCOUNTS: Final = ("snaphold_admin", "snaphold_backup")  # of every instance (snaphold.engines.mariadb.accounts)
_PLACES: Final = ("/etc/", "/home/", "/proc/", "/root/", "/run/", "/tmp/", "/usr/", "/var/", "[Errno ")  # noqa: S108

_log = structlog.get_logger(__name__)
_private: set[str] = set()


def keep_private(places: Iterable[Path | None]) -> None:
    """Once, when a process starts: these directories are named to nobody."""
    _private.update(str(place) for place in places if place is not None and place != Path("/"))


def reason_of(error: BaseException) -> str:
    """What people are told of this error. What was raised by accident, or is for the operator, they are not told."""
    if isinstance(error, SnapholdError) and not isinstance(error, SetupError):
        return screened(str(error))
    return HELD_BACK


def screened(reason: str) -> str:
    """This reason, unless it names what is private; not longer than anybody reads."""
    named = next((text for text in (*_private, *_PLACES, *_ACCOUNTS) if text in reason), None)
    if named is not None:
        _log.error("reason.held_back", reason=reason, names=named)
        return HELD_BACK
    return reason if len(reason) <= _MAX else f"{reason[: _MAX - 1]}…"
