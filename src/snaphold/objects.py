"""Objects of a container: how they are named, how they are listed, and how large a segment is.

A backup with the id ``<id>`` consists of these objects (docs/reference/format.md):

    <id>.xbstream.gz, <id>.xbstream.zst              its data
    <id>.index                                       its index
    <id>.json                                        its manifest
    <id>.proof.json                                  the record of its newest verification
    snaphold/<deployment>/<id>/<attempt>/…           the segments of an attempt that has not been published

Every store accepts the same names, so that each object can be copied to every store.
"""

import re
from dataclasses import dataclass
from typing import Final

from snaphold.errors import Permanent
from snaphold.model import ID_FORM

CONTAINER: Final = "z_CLOUDDB_BACKUPS"  # every account's container of backups (contract, section 9)
SEGMENT_SIZE: Final = 64 << 20  # bytes; every segment of a new data object but the last has exactly this size
MAX_SEGMENT_SIZE: Final = SEGMENT_SIZE  # bytes; readers refuse larger ones, because they hold several in memory
DATA_OBJECT_FORM: Final = rf"{ID_FORM}\.xbstream\.(?:gz|zst)"  # a regular expression
_PART: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_MAX_NAME: Final = 1000  # bytes; Swift and S3 allow 1024
_OF_BACKUP: Final = re.compile(rf"({ID_FORM})\.")
_MANIFEST: Final = re.compile(rf"({ID_FORM})\.json")
_SEGMENT: Final = re.compile(r"snaphold/([^/]+)/([^/]+)")
_ID: Final = re.compile(ID_FORM)


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One object as its store lists it. ``modified_s``: seconds since the epoch, by the store's clock."""

    name: str
    size_bytes: int
    modified_s: float


def data_name(backup_id: str, suffix: str) -> str:
    """The name of a backup's data object. ``suffix``: the codec's, ``gz`` or ``zst``."""
    return f"{backup_id}.xbstream.{suffix}"


def index_name(backup_id: str) -> str:
    """The name of a backup's index."""
    return f"{backup_id}.index"


def manifest_name(backup_id: str) -> str:
    """The name of a backup's manifest."""
    return f"{backup_id}.json"


def verification_record_name(backup_id: str) -> str:
    """The name of the record of a backup's newest verification."""
    return f"{backup_id}.proof.json"


def object_prefix(backup_id: str) -> str:
    """The start of the name of every published object of a backup."""
    return f"{backup_id}."


def segment_prefix(deployment: str, backup_id: str, attempt: int) -> str:
    """The start of the names of an attempt's segments."""
    return f"{backup_prefix(deployment, backup_id)}{attempt}/"


def backup_prefix(deployment: str, backup_id: str) -> str:
    """The start of the names of all segments of a backup, whichever attempt wrote them."""
    return f"snaphold/{deployment}/{backup_id}/"


def backup_of_object(name: str) -> str | None:
    """The id of the backup that a published object belongs to, by the object's name; None if it names no backup."""
    found = _OF_BACKUP.match(name)
    return None if found is None else found[1]


def backup_of_manifest(name: str) -> str | None:
    """The id of the backup whose manifest has this name; None if it is no manifest's name."""
    found = _MANIFEST.fullmatch(name)
    return None if found is None else found[1]


def owner_of_segment(name: str) -> tuple[str, str] | None:
    """The deployment and the backup in the name of a segment; None if it is not named like one.

    Neither is checked: another deployment's ids may have another form.
    """
    found = _SEGMENT.match(name)
    return None if found is None else (found[1], found[2])


def backup_of_name(name: str, *, deployment: str) -> str | None:
    """The id of the backup that an object, or a segment of this deployment, belongs to; None if it names no backup.

    ``name`` may also be the prefix of an attempt's segments, or the whole start of the names of a backup's objects.
    """
    if (found := backup_of_object(name)) is not None:
        return found
    own = f"snaphold/{deployment}/"
    backup_id, slash, _ = name.removeprefix(own).partition("/")
    return backup_id if name.startswith(own) and slash and _ID.fullmatch(backup_id) else None


def check_name(name: str) -> str:
    """Return the name of an object unchanged.

    Raises:
        Permanent: the name does not consist of ``/``-separated parts of ``[A-Za-z0-9._-]``, or a part is ``.``, ``..``
            or longer than 200 characters.
    """
    if not is_name(name):
        raise Permanent(f"{name!r} cannot be the name of an object")
    return name


def is_name(name: str) -> bool:
    """Whether an object may have this name."""
    return len(name) <= _MAX_NAME and all(_is_part(part) for part in name.split("/"))


def check_prefix(prefix: str) -> str:
    """Return the prefix of an attempt's segments unchanged: a name that ends in ``/``.

    Raises:
        Permanent: it is no such prefix.
    """
    if not prefix.endswith("/") or not is_name(prefix[:-1]):
        raise Permanent(f"{prefix!r} cannot be the prefix of segments")
    return prefix


def check_list_prefix(prefix: str) -> str:
    """Return the start of the names to list unchanged: any beginning of a name, the empty one included.

    Raises:
        Permanent: no name starts like this.
    """
    *whole, last = prefix.split("/")
    if len(prefix) > _MAX_NAME or not all(_is_part(part) for part in whole) or (last and not _PART.fullmatch(last)):
        raise Permanent(f"no object's name starts with {prefix!r}")
    return prefix


def check_account(account: str) -> str:
    """Return the name of an account unchanged.

    Raises:
        Permanent: it is not a single part of a name.
    """
    if not is_account(account):
        raise Permanent(f"{account!r} cannot be the name of an account")
    return account


def is_account(account: str) -> bool:
    """Whether an account may have this name."""
    return _is_part(account)


def _is_part(part: str) -> bool:
    return _PART.fullmatch(part) is not None and part not in {".", ".."}
