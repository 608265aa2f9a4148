"""What a request asks for, parsed and checked in form; whether it can be had is the service's to say."""

from collections.abc import Sequence
from dataclasses import dataclass

from snaphold.model import Backup, Flavor, Instance
from snaphold.protocol import DatabaseSpec, UserSpec


@dataclass(frozen=True, kw_only=True)
class BackupRequest:
    """``POST /backups``. ``copy_to`` None: not given."""

    name: str
    description: str | None
    source_type: str  # "instance" | "ha"
    source_id: str  # as sent: may be no id at all
    parent_id: str | None
    incremental: bool
    copy_to: Sequence[str] | None


@dataclass(frozen=True, kw_only=True)
class InstanceRequest:
    """``POST /instances``. ``volume_gb`` and ``datastore`` None: not given. Passwords are hashed already."""

    name: str | None
    flavor: Flavor
    volume_gb: int | None
    datastore: str | None  # type name or id, as sent
    version: str | None  # name or id, as sent
    databases: Sequence[DatabaseSpec]
    users: Sequence[UserSpec]
    backup_ref: str | None
    replica_of: str | None


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """Which part of a list: ``limit`` is within the maximum already, ``marker`` an id or an offset in digits."""

    limit: int
    marker: str | None


@dataclass(frozen=True, kw_only=True)
class BackupPage:
    """Newest first. ``next_marker`` None: the list is complete."""

    backups: Sequence[Backup]
    next_marker: str | None


@dataclass(frozen=True, kw_only=True)
class InstancePage:
    """Newest first. ``next_marker`` None: the list is complete."""

    instances: Sequence[Instance]
    next_marker: str | None
