"""The nouns of the service, the states they move through, and decisions that need nothing but their arguments.

Times are microseconds since the epoch (``_us``), by the database's clock.
"""

import hashlib
import ipaddress
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any, Final

NAMESPACE: Final = uuid.UUID("5b1f0c5e-6c54-4c0a-9a5b-0f2f6f0d6f10")  # of the stable ids of datastores and versions
MIB: Final = 1 << 20  # bytes; of memory
MB: Final = 1_000_000  # bytes; of rates
MINUTE_US: Final = 60 * 1_000_000
DAY_US: Final = 24 * 3600 * 1_000_000
ID_FORM: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # of a backup's id, in names too
GIB: Final = 1 << 30  # bytes; what the contract calls a GB
_VERIFICATION_RETRIED_US: Final = 24 * 3600 * 1_000_000
_COPY_TRIES: Final = 18
INCOMING_COPY_WAIT_US: Final = 7 * DAY_US  # of silence, before a copy from another region is abandoned
SERVICE_ACCOUNT: Final = "snaphold-service"  # whose container holds what the service saves of itself; nobody's login
_ENGINE_FILE: Final = re.compile(r"ib_logfile\d+|(xtrabackup|mariadb_backup)_(checkpoints|binlog_pos_innodb)", re.ASCII)
KNOWN_DATASTORES: Final = ("mariadb", "mysql", "percona")  # names that a filter always understands


class BackupStatus(StrEnum):
    """The chapter's table of backup statuses."""

    NEW = "NEW"
    BUILDING = "BUILDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DELETE_FAILED = "DELETE_FAILED"


class Origin(StrEnum):
    """How a backup came to be."""

    TAKEN = "taken"  # from a database
    CONSOLIDATED = "consolidated"  # from the objects of a chain
    COPIED = "copied"  # from another region


class CopyStatus(StrEnum):
    """Where a copy to another region stands."""

    NEW = "NEW"  # asked for; it begins when the backup is COMPLETED
    COPYING = "COPYING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class VerificationLevel(StrEnum):
    """How far a verification of a backup goes."""

    OBJECTS = "objects"  # its objects are read back, and their hashes are those recorded
    RESTORE = "restore"  # its chain is brought up as a throw-away server, and every table is checked


class VerificationStatus(StrEnum):
    """What a verification has shown."""

    PASSED = "passed"
    FAILED = "failed"  # bytes differ from what was recorded, or are gone
    UNKNOWN = "unknown"  # a store or a host did not answer, or could not do its part: it is tried again


RUNNING: Final = (BackupStatus.NEW, BackupStatus.BUILDING)

BACKUP_MOVES: Final[Mapping[BackupStatus, frozenset[BackupStatus]]] = {
    BackupStatus.NEW: frozenset({BackupStatus.BUILDING, BackupStatus.FAILED}),
    BackupStatus.BUILDING: frozenset({BackupStatus.COMPLETED, BackupStatus.FAILED}),
    BackupStatus.COMPLETED: frozenset({BackupStatus.DELETE_FAILED}),
    BackupStatus.FAILED: frozenset({BackupStatus.DELETE_FAILED}),
    BackupStatus.DELETE_FAILED: frozenset(),
}


class InstanceStatus(StrEnum):
    """The contract's instance statuses that this release reaches (section 4)."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    BACKUP = "BACKUP"
    REBOOT = "REBOOT"
    RESIZE = "RESIZE"
    SHUTDOWN = "SHUTDOWN"  # stopped, or on its way there; one that is being deleted too, which ``deleting`` tells
    ERROR = "ERROR"


INSTANCE_MOVES: Final[Mapping[InstanceStatus, frozenset[InstanceStatus]]] = {
    InstanceStatus.BUILD: frozenset({InstanceStatus.ACTIVE, InstanceStatus.ERROR}),
    InstanceStatus.ACTIVE: frozenset(
        {InstanceStatus.BACKUP, InstanceStatus.REBOOT, InstanceStatus.RESIZE, InstanceStatus.SHUTDOWN}
    ),
    InstanceStatus.BACKUP: frozenset({InstanceStatus.ACTIVE}),
    InstanceStatus.REBOOT: frozenset({InstanceStatus.ACTIVE, InstanceStatus.ERROR}),
    InstanceStatus.RESIZE: frozenset({InstanceStatus.ACTIVE, InstanceStatus.ERROR}),
    # A server that was there once may come back by itself, or by another restart.
    InstanceStatus.ERROR: frozenset({InstanceStatus.ACTIVE, InstanceStatus.REBOOT, InstanceStatus.SHUTDOWN}),
    # A stopped one is started, or deleted.
    InstanceStatus.SHUTDOWN: frozenset({InstanceStatus.REBOOT, InstanceStatus.ERROR, InstanceStatus.SHUTDOWN}),
}


class Rate(StrEnum):
    """What is counted by the minute (contract, section 8); a setting ``<rate>_per_minute`` each."""

    BACKUP_CREATES = "backup_creates"
    BACKUP_DELETES = "backup_deletes"
    BACKUP_ACTIONS = "backup_actions"
    INSTANCE_CREATES = "instance_creates"
    INSTANCE_DELETES = "instance_deletes"
    INSTANCE_ACTIONS = "instance_actions"
    INSTANCE_RENAMES = "instance_renames"
    SCHEDULE_WRITES = "schedule_writes"
    USER_WRITES = "user_writes"  # of databases, users, rights and root
    LOGINS = "logins"  # of a user, not of an account: identity counts them, over all regions
    READS = "reads"


class TaskState(StrEnum):
    """A host's task: waiting for its host, claimed with a lease, or ended."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Flavor:
    """A size of server. The buffer pool gets half of the memory."""

    id: int
    ram_mb: int

    @property
    def name(self) -> str:
        """As Cloud Databases called them."""
        return f"{self.ram_mb // 1024}GB Instance" if self.ram_mb >= 1024 else f"{self.ram_mb}MB Instance"


FLAVORS: Final[Mapping[int, Flavor]] = {n: Flavor(id=n, ram_mb=256 << n) for n in range(1, 9)}


@cache
def datastore_id(datastore: str) -> str:
    """The same UUID for the same type of datastore in every deployment."""
    return str(uuid.uuid5(NAMESPACE, datastore))


@cache
def version_id(datastore: str, version: str) -> str:
    """The same UUID for the same version in every deployment."""
    return str(uuid.uuid5(NAMESPACE, f"{datastore}/{version}"))


def rfc3339(time_us: int) -> str:
    """``YYYY-MM-DDTHH:MM:SSZ``: UTC, no fractions (contract, section 1)."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).isoformat().removesuffix("+00:00") + "Z"


def rfc3339_exact(time_us: int) -> str:
    """The same, to the microsecond: what a manifest keeps of ``created``."""
    return f"{rfc3339(time_us)[:-1]}.{time_us % 1_000_000:06d}Z"


def parse_rfc3339(text: str) -> int:
    """The time that ``rfc3339`` or ``rfc3339_exact`` wrote, in microseconds. Raises ``ValueError``."""
    time = datetime.fromisoformat(text)
    return int(time.replace(microsecond=0).timestamp()) * 1_000_000 + time.microsecond


def gigabytes(size_bytes: int) -> float:
    """GB as the chapter shows them (``0.18``): two decimals, more where two would show nothing."""
    exact = size_bytes / GIB
    return round(exact, 2) if exact >= 0.1 else round(exact, 6)


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine with database servers, and what its agent last said of itself."""

    id: str
    name: str
    datastores: list[dict[str, str]]  # protocol.Datastore
    shared_system_user: bool
    accepts_shared: bool
    memory_mb: int | None = None  # None: it has told none
    networks: list[str] = field(default_factory=list)  # of which each of its instances gets an address
    instance_port: int | None = None
    taken: list[str] = field(default_factory=list)  # addresses of these networks that are not free
    created_us: int = 0
    session: str | None
    seen_us: int | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What backups are of, and what has a schedule: an instance, or a group, whose members take turns to be read."""

    type: str  # "instance" | "ha"
    id: str


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A database server that the service keeps."""

    id: str
    account: str
    name: str
    status: InstanceStatus
    deleting: bool
    host_id: str
    datastore: str
    version: str
    flavor_id: int
    volume_gb: int
    hostname: str | None = None  # as clients are told from the first answer on; None: of an earlier release
    reserved_address: str | None = None  # where it is to listen
    address: str | None  # where it has listened; None: it never ran
    port: int | None
    used_bytes: int | None
    running: bool
    step: str | None = None  # of a restore, as the next three
    done_bytes: int | None = None
    expected_bytes: int | None = None
    bytes_per_s: int | None = None
    reason: str | None
    restored_from: str | None
    incarnation: str | None = None  # of its data directory, as its host tells it; None: not known
    max_lsn: int | None = None  # the highest told in it
    ended_incarnation: str | None = None  # the last one that is over
    host_silent: bool = False  # nothing was heard from its host for a lease's time, as far as was looked
    created_us: int
    updated_us: int
    deleted_us: int | None

    @property
    def source(self) -> Source:
        """The source that backups of this instance are of: itself, unless it is a member of a group."""
        return Source(type="instance", id=self.id)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A copy of a backup in another region, as the region that it comes from sees it. Its id there is ``copy_id``."""

    id: str
    backup_id: str
    account: str
    region: str
    copy_id: str
    name: str
    description: str | None
    with_ancestors: bool  # what it depends on is copied first, where it is missing there
    asked_by: str | None  # the user in whose name it is made
    status: CopyStatus
    reason: str | None
    tries: int
    next_try_us: int | None  # of one that has to wait
    begun_us: int | None  # the copy's time of creation, the same at every try
    created_us: int
    updated_us: int


@dataclass(frozen=True, kw_only=True)
class IncomingCopy:
    """A copy that comes from another region, as the region that it comes to sees it before it is a backup."""

    id: str  # the backup's, once it is one
    account: str
    region: str  # where it comes from
    made_from: str  # its id there
    segments: int  # that its data object will have
    created_us: int
    seen_us: int  # when something of it came last
    ended_us: int | None  # since when nothing of it may come any more


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup: what was asked for, and what has become of it. What has a default is not known of a new one."""

    id: str
    account: str
    name: str
    description: str | None
    status: BackupStatus
    deleting: bool = False
    instance_id: str | None
    source_type: str
    source_id: str
    parent_id: str | None
    datastore: str
    version: str
    flavor_ram_mb: int
    volume_gb: int
    is_automated: bool
    made: Origin
    made_from: str | None = None
    made_from_region: str | None = None
    size_bytes: int | None = None
    object_bytes: int | None = None
    object_name: str | None = None
    manifest_sha256: str | None = None
    incarnation: str | None = None
    checkpoint_lsn: int | None = None
    to_lsn: int | None = None
    done_bytes: int | None = None
    expected_bytes: int | None = None
    bytes_per_s: int | None = None
    step: str | None = None
    reason: str | None = None
    created_us: int
    updated_us: int
    deleted_us: int | None = None
    proving: VerificationLevel | None = None  # a verification is under way
    mending: bool = False  # the verification that was asked for repairs what it finds damaged
    proof_asked_us: int | None = None  # when the verification was asked for that has not been given yet
    proof_tried_us: int | None = None  # when it was last tried
    proof_status: VerificationStatus | None = None  # of the newest verification, as the five that follow
    proof_level: VerificationLevel | None = None
    proof_at_us: int | None = None
    proof_seconds: float | None = None
    proof_reason: str | None = None
    proof_mend_from: str | None = None  # the region that what is damaged can be had from
    copies: tuple[Copy, ...] = ()

    @property
    def running(self) -> bool:
        """NEW or BUILDING."""
        return self.status in RUNNING

    @property
    def usable(self) -> bool:
        """COMPLETED, and it stays: it can be restored, verified, copied and built upon."""
        return self.status is BackupStatus.COMPLETED and not self.deleting and self.deleted_us is None

    @property
    def taken_from(self) -> str:
        """The instance that its data came from: the source itself, or the member of the group that was read."""
        return self.source_id if self.instance_id is None else self.instance_id


@dataclass(frozen=True, kw_only=True)
class WaitingFull:
    """An automated full that retention would remove, but for backups made by people that depend on it."""

    backup_id: str
    needed_by: Sequence[str]  # ids of these backups, oldest first


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a source is backed up by itself, in UTC. ``day_of_week``: of the full ones, Sunday 0; 7: each is full."""

    id: str
    account: str
    source_type: str
    source_id: str
    day_of_week: int
    hour: int
    minute: int
    full_backup_retention: int
    copy_to: Sequence[str] | None
    asked_by: str | None  # the user who has said so last, and in whose name copies are made
    next_run_us: int
    last_run_us: int | None
    created_us: int
    updated_us: int
    deleted_us: int | None
    waiting_fulls: Sequence[WaitingFull] = ()


@dataclass(frozen=True, kw_only=True)
class DueRun:
    """A schedule whose time has come, and what its source and the source's host are doing. None: there is none."""

    schedule: Schedule
    instance_status: InstanceStatus | None
    host_seen_us: int | None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a host's task; its number marks every byte that it writes."""

    task_id: str
    kind: str
    number: int
    state: TaskState
    host_id: str
    instance_id: str | None
    backup_id: str | None
    account: str
    payload: Mapping[str, Any]  # what the host is told beside ids; empty once the task has ended
    session: str | None
    lease_until_us: int | None
    created_us: int


def verification_is_due(asked_us: int, last_us: int, now_us: int, interval_us: int) -> bool:
    """Whether a verification that ended unknown is to be tried again.

    1. Not sooner than ``interval_us`` after the last try, and after a wait as long as all the tries so far took.
    2. Not when it was asked for more than a day ago: it stays unknown until somebody asks again.
    """
    if now_us - asked_us > _VERIFICATION_RETRIED_US:
        return False
    return now_us - last_us >= max(interval_us, last_us - asked_us)


def copy_waits_us(tries: int) -> int | None:
    """How long a copy waits after so many tries that found a store or a peer silent; None: it has failed.

    Five seconds, doubled each time, ten minutes at most: about two hours altogether.
    """
    return None if tries > _COPY_TRIES else min(5 << (tries - 1), 600) * 1_000_000


def copy_name(name: str) -> str:
    """What a copy is called when nobody says: ``<name>-copy``, 64 characters at most."""
    return f"{name}-copy"[:64]


def flavor_from_reference(reference: object) -> Flavor | None:
    """The flavor that an int, a numeric string, or an href ending in the id names; None when there is none."""
    if isinstance(reference, bool) or not isinstance(reference, (int, str)):
        return None
    tail = str(reference).rstrip("/").rsplit("/", 1)[-1]
    return FLAVORS.get(int(tail)) if tail.isascii() and tail.isdigit() and len(tail) < 4 else None


def addresses_in(networks: Sequence[str], key: str) -> Iterator[str]:
    """The addresses that servers may get, those of the first network first, in an order that depends on ``key``.

    What ends in 0 or 255 is often taken for a network or a broadcast address, and is left out.
    """
    for network in map(ipaddress.ip_network, networks):
        for step in from_there(first_choice(key, network.num_addresses), network.num_addresses):
            if network.num_addresses <= 2 or (int(network[0]) + step) & 0xFF not in {0, 0xFF}:
                yield str(network[step])


def first_choice(key: str, among: int) -> int:
    """Where the search for a free number starts: spread by the key, so that two services rarely meet."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % among


def from_there(start: int, count: int) -> Iterator[int]:
    """``start``, ``start + 1`` … and round to the ones before it."""
    return ((start + step) % count for step in range(count))


def rank_hosts(
    hosts: Sequence[Host], load: Mapping[str, int], others: Mapping[str, set[str]], account: str
) -> list[Host]:
    """The hosts that may take a new instance of the account, the best first.

    1. A host that already keeps instances of another account is left out if its servers share a system user and it
       does not accept that.
    2. Of the rest, the one with the fewest instances comes first; then by name.
    """
    fit = [
        host
        for host in hosts
        if not (host.shared_system_user and not host.accepts_shared and others.get(host.id, set()) - {account})
    ]
    return sorted(fit, key=lambda host: (load.get(host.id, 0), host.name))


def next_run_us(after_us: int, hour: int, minute: int) -> int:
    """The first moment after ``after_us`` at which it is this time of day, UTC: at most a day away."""
    time_of_day_us = (hour * 60 + minute) * 60_000_000
    return ((after_us - time_of_day_us) // DAY_US + 1) * DAY_US + time_of_day_us


def runs_full(schedule: Schedule, newest_full_us: int | None, now_us: int) -> bool:
    """Whether a run of now is a full one. ``newest_full_us``: when its newest automated full was asked for, if any.

    1. Where each is to be full, or there is none yet, it is.
    2. Else when the weekly moment of full ones has come since the newest one: a full that was missed, or has FAILED,
       is made up for by the next run, whatever its day.
    """
    if schedule.day_of_week == 7 or newest_full_us is None:
        return True
    latest = next_run_us(now_us, schedule.hour, schedule.minute) - DAY_US
    weekday = (latest // DAY_US + 4) % 7  # day 0 of the epoch was a Thursday
    return newest_full_us < latest - (weekday - schedule.day_of_week) % 7 * DAY_US


def what_run_waits_for(run: DueRun, *, running: int, limit: int, hosts_since_us: int) -> str | None:
    """Why a run that is due cannot begin yet, or None. ``running``: backups of its account; ``limit`` 0: none.

    1. Its instance is ACTIVE; one that is gone or in ERROR is waited for like one that is busy.
    2. Its host has been heard from.
    3. The account is below its limit of running backups.
    """
    if run.instance_status is not InstanceStatus.ACTIVE:
        return f"its instance is {run.instance_status or 'gone'}"
    if run.host_seen_us is None or run.host_seen_us < hosts_since_us:
        return "the host of its instance does not answer"
    if limit and running >= limit:
        return f"its account has {running} running backup(s)"
    return None


def expired_fulls(schedule: Schedule, fulls: Sequence[Backup]) -> list[Backup]:
    """The automated fulls that the schedule no longer keeps, oldest first. ``fulls``: those of its source, any order.

    1. Only COMPLETED ones that are not being deleted count.
    2. Nothing goes before a further one was asked for, and has completed, since somebody last changed the schedule.
    3. Of the rest all but the newest ``full_backup_retention`` go.

    Those that a backup made by a person depends on have to wait (``needed_by_people``).
    """
    counted = [full for full in fulls if full.status is BackupStatus.COMPLETED and not full.deleting]
    counted.sort(key=lambda full: (full.created_us, full.id))
    if not counted or counted[-1].created_us <= schedule.updated_us:
        return []
    return counted[: -schedule.full_backup_retention]


def needed_by_people(backup_id: str, family: Sequence[Backup]) -> list[str]:
    """The backups for whose sake retention leaves this one, oldest first. ``family``: it and all made on top of it.

    1. Whoever asked for a backup decides when it goes: retention removes only what schedules have asked for.
    2. One that has FAILED, or that its owner has told to be deleted, needs nothing any more.
    """
    kept = (BackupStatus.NEW, BackupStatus.BUILDING, BackupStatus.COMPLETED)
    needing = [
        member
        for member in family
        if member.id != backup_id and not member.is_automated and not member.deleting and member.status in kept
    ]
    return [member.id for member in sorted(needing, key=lambda member: (member.created_us, member.id))]


def is_engine_file(database: str) -> bool:
    """Whether a database of this name would stand where MariaDB, or preparing a backup of it, needs a file.

    A server with such a database does not start again, or no backup of it can be restored.
    """
    return _ENGINE_FILE.fullmatch(database) is not None
