"""Which names objects, prefixes and accounts may have: the same in every store, so that each can be copied to each."""

import re

from snaphold.errors import Permanent

_PART = re.compile(r"[A-Za-z0-9._-]{1,200}")
_MAX_NAME = 1000  # bytes, of 1024 that Swift and S3 allow


def check_name(name: str) -> str:
    """Return the name of an object, unchanged.

    Raises:
        Permanent: it is not made of ``/``-separated parts of ``[A-Za-z0-9._-]``, or a part is ``.``, ``..`` or longer
            than 200 characters.
    """
    if not is_name(name):
        raise Permanent(f"{name!r} cannot be the name of an object")
    return name


def is_name(name: str) -> bool:
    """Whether an object may have this name."""
    return len(name) <= _MAX_NAME and all(_is_part(part) for part in name.split("/"))


def check_prefix(prefix: str) -> str:
    """Return the prefix of an attempt's segments, unchanged: a name that ends in ``/``.

    Raises:
        Permanent: it is no such prefix.
    """
    if not prefix.endswith("/") or not is_name(prefix[:-1]):
        raise Permanent(f"{prefix!r} cannot be the prefix of segments")
    return prefix


def check_list_prefix(prefix: str) -> str:
    """Return what the names to be listed start with, unchanged: any beginning of a name, also the empty one.

    Raises:
        Permanent: no name starts like this.
    """
    *whole, last = prefix.split("/")
    if len(prefix) > _MAX_NAME or not all(_is_part(part) for part in whole) or (last and not _PART.fullmatch(last)):
        raise Permanent(f"no object's name starts with {prefix!r}")
    return prefix


def check_account(account: str) -> str:
    """Return the name of an account, unchanged.

    Raises:
        Permanent: it is no single part of a name.
    """
    if not is_account(account):
        raise Permanent(f"{account!r} cannot be the name of an account")
    return account


def is_account(account: str) -> bool:
    """Whether an account may have this name."""
    return _is_part(account)


def _is_part(part: str) -> bool:
    return _PART.fullmatch(part) is not None and part not in {".", ".."}
