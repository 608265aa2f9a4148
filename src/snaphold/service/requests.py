"""Requests: parsed, and checked in form by the caller. The service checks whether they can be granted."""

from collections.abc import Sequence
from dataclasses import dataclass

from snaphold.model import Backup, Flavor, Instance, Schedule
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
    asked_by: str | None = None  # the user in whose name copies are made


@dataclass(frozen=True, kw_only=True)
class CopyRequest:
    """``copy-backup``. ``name`` None: ``<name>-copy``. ``description`` None: the backup's own."""

    region: str
    name: str | None = None
    description: str | None = None
    asked_by: str | None = None  # the user in whose name it is made


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
    """A part of a list. ``limit`` is within the maximum; ``marker`` is an id, or an offset in digits."""

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


@dataclass(frozen=True, kw_only=True)
class ScheduleRequest:
    """``POST /schedules``. ``copy_to`` None: not given."""

    source_type: str  # "instance" | "ha"
    source_id: str  # as sent: may be no id at all
    day_of_week: int
    hour: int
    minute: int
    full_backup_retention: int
    copy_to: Sequence[str] | None
    asked_by: str | None = None  # the user in whose name copies are made


@dataclass(frozen=True, kw_only=True)
class ScheduleChangeRequest:
    """``PUT /schedules/{id}``. None: no change. ``source_id`` must be that of the schedule."""

    source_id: str | None
    day_of_week: int | None
    hour: int | None
    minute: int | None
    full_backup_retention: int | None
    copy_to: Sequence[str] | None
    run_now: bool
    asked_by: str | None = None  # the user in whose name copies are made from now on


@dataclass(frozen=True, kw_only=True)
class ScheduleFilter:
    """A filter of a list of schedules. None: any."""

    action: str | None = None
    source_type: str | None = None
    source_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class SchedulePage:
    """Newest first. ``next_marker`` None: the list is complete."""

    schedules: Sequence[Schedule]
    next_marker: str | None
