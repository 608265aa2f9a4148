"""Reasons: what tenants read about a failure. The message of an error is one, as ``snaphold.errors`` says.

This module checks each reason before a tenant gets it. A reason that names a path of a host or an internal account is
withheld and logged instead: ours should not contain one, and a host may run another release or be compromised.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import structlog

from snaphold.errors import SetupError, SnapholdError

HELD_BACK: Final = "The service could not do its part; its log has the details."
_MAX: Final = 2000  # characters
# Of every instance: snaphold.engines.mariadb.accounts. The last is the random name of the account with SUPER.
_ACCOUNT: Final = re.compile(r"snaphold_(?:admin|backup|[0-9a-f]{32})")
# An absolute path of two or more parts, whichever machine it belongs to; not a URL, nor an object of an account's
# container (/1234/z_CLOUDDB_BACKUPS/...).
_PATH: Final = re.compile(r"""(?<![\w./:~-])/(?![^\s/]+/z_CLOUDDB_BACKUPS/)[^\s/'"`]+/[^\s/'"`]+""")
# A file of a backup as its stream names it, a rate: what of a host's reason may have a slash.
_FILE: Final = re.compile(
    r"(?:\./)?[^/:]+/[^/:]+\.(?:ibd|frm|MY[DI]|MA[DI]|CS[VM]|AR[ZM]|TR[GN]|MRG|isl|opt|par)(?:\.\w+)*[.:]?|\w?B/s[.:]?|and/or"
)
_WITH_SLASH: Final = re.compile(r"""[^\s'"`(),;=<>]*/[^\s'"`(),;=<>]*""")
_OF_A_HOST: Final = re.compile(
    r"\bsnaphold_\w+"  # accounts
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b"  # IPv4 addresses
    r"|\b(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}\b|[0-9a-f:]*::[0-9a-f:]*[0-9a-f]\b"  # IPv6 addresses
    r"|[\w-]+\.(?:internal|intern|local|localdomain|lan|corp)\b"  # names
    r"|\bAKIA[0-9A-Z]{12}|\b[Bb]earer\s+\S+"  # keys
    r"|\b(?:[ug]id|pid|process)[\s=:]+\d+"
)
_PARTS: Final = ("/etc/", "/home/", "/proc/", "/root/", "/run/", "/tmp/", "/usr/", "/var/", "[Errno ")  # noqa: S108

_log = structlog.get_logger(__name__)
_private: set[str] = set()


def keep_private(paths: Iterable[Path | None]) -> None:
    """Withhold reasons that contain one of these paths of this machine. Called when a process starts."""
    _private.update(str(path) for path in paths if path is not None and path != Path("/"))


def reason_of(error: BaseException) -> str:
    """The reason that a tenant gets for an error. Unexpected errors, and those for the operator, are withheld."""
    if isinstance(error, SnapholdError) and not isinstance(error, SetupError):
        return screened(str(error))
    return HELD_BACK


def screened(reason: str) -> str:
    """The reason, cut to 2000 characters; or ``HELD_BACK`` when it names a path or an internal account."""
    named = _private_part(reason)
    if named is not None:
        return _withhold(reason, named)
    return reason if len(reason) <= _MAX else f"{reason[: _MAX - 1]}…"


def screened_from_host(reason: str) -> str:
    """The same for a host's reason, which may name no path, address, account, key or process of it at all.

    Names of files in a backup are allowed. This guards against accidents: a hostile host can hide what it wants to say.
    """
    named = next((word for word in _WITH_SLASH.findall(reason) if not _FILE.fullmatch(word)), None)
    if named is None:
        found = _OF_A_HOST.search(reason)
        named = None if found is None else found[0]
    if named is not None:
        return _withhold(reason, named)
    return screened(reason)


def _withhold(reason: str, named: str) -> str:
    _log.error("reason.held_back", reason=reason, names=named)
    return HELD_BACK


def _private_part(reason: str) -> str | None:
    for text in (*_private, *_PARTS):
        if text in reason:
            return text
    found = _ACCOUNT.search(reason) or _PATH.search(reason)
    return None if found is None else found[0]
