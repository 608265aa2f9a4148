"""The entities of the service, their states, and decisions that depend on their arguments only.

Times (``_us``) are microseconds since the epoch, by the clock of the catalog's host.
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

NAMESPACE: Final = uuid.UUID("5b1f0c5e-6c54-4c0a-9a5b-0f2f6f0d6f10")  # of the ids of datastores and versions
MIB: Final = 1 << 20  # bytes; memory is counted in these
MB: Final = 1_000_000  # bytes; rates are counted in these
MINUTE_US: Final = 60 * 1_000_000
DAY_US: Final = 24 * 3600 * 1_000_000
ID_FORM: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # of a backup's id, also in names of objects
GIB: Final = 1 << 30  # bytes; the GB of the contract
_VERIFICATION_RETRIED_US: Final = 24 * 3600 * 1_000_000
_COPY_TRIES: Final = 18
INCOMING_COPY_WAIT_US: Final = 7 * DAY_US  # a copy from another region is abandoned after this time without progress
SERVICE_ACCOUNT: Final = "snaphold-service"  # the owner of the container for saved states; it has no login
_ENGINE_FILE: Final = re.compile(r"ib_logfile\d+|(xtrabackup|mariadb_backup)_(checkpoints|binlog_pos_innodb)", re.ASCII)
KNOWN_DATASTORES: Final = ("mariadb", "mysql", "percona")  # names that a filter always accepts


class BackupStatus(StrEnum):
    """The statuses of a backup (on-demand backups, table of statuses)."""

    NEW = "NEW"
    BUILDING = "BUILDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DELETE_FAILED = "DELETE_FAILED"


class Origin(StrEnum):
    """How a backup was made."""

    TAKEN = "taken"  # from a database
    CONSOLIDATED = "consolidated"  # from the objects of a chain
    COPIED = "copied"  # from another region


class CopyStatus(StrEnum):
    """The status of a copy to another region."""

    NEW = "NEW"  # requested; it begins when the backup is COMPLETED
    COPYING = "COPYING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class VerificationLevel(StrEnum):
    """What a verification of a backup checks."""

    OBJECTS = "objects"  # all objects are read back and have the recorded hashes
    RESTORE = "restore"  # the chain is restored into a scratch server, and every table is checked


class VerificationStatus(StrEnum):
    """The result of a verification."""

    PASSED = "passed"
    FAILED = "failed"  # bytes differ from what was recorded, or are missing
    UNKNOWN = "unknown"  # a store or a host did not answer, or the check was impossible: it is tried again


RUNNING: Final = (BackupStatus.NEW, BackupStatus.BUILDING)

BACKUP_MOVES: Final[Mapping[BackupStatus, frozenset[BackupStatus]]] = {
    BackupStatus.NEW: frozenset({BackupStatus.BUILDING, BackupStatus.FAILED}),
    BackupStatus.BUILDING: frozenset({BackupStatus.COMPLETED, BackupStatus.FAILED}),
    BackupStatus.COMPLETED: frozenset({BackupStatus.DELETE_FAILED}),
    BackupStatus.FAILED: frozenset({BackupStatus.DELETE_FAILED}),
    BackupStatus.DELETE_FAILED: frozenset(),
}


class InstanceStatus(StrEnum):
    """The statuses of an instance that this release uses (contract, section 4)."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    BACKUP = "BACKUP"
    REBOOT = "REBOOT"
    RESIZE = "RESIZE"
    SHUTDOWN = "SHUTDOWN"  # stopped, stopping, or being deleted (``deleting``)
    ERROR = "ERROR"


INSTANCE_MOVES: Final[Mapping[InstanceStatus, frozenset[InstanceStatus]]] = {
    InstanceStatus.BUILD: frozenset({InstanceStatus.ACTIVE, InstanceStatus.ERROR}),
    InstanceStatus.ACTIVE: frozenset(
        {InstanceStatus.BACKUP, InstanceStatus.REBOOT, InstanceStatus.RESIZE, InstanceStatus.SHUTDOWN}
    ),
    InstanceStatus.BACKUP: frozenset({InstanceStatus.ACTIVE}),
    InstanceStatus.REBOOT: frozenset({InstanceStatus.ACTIVE, InstanceStatus.ERROR}),
    InstanceStatus.RESIZE: frozenset({InstanceStatus.ACTIVE, InstanceStatus.ERROR}),
    # A server that ran once may recover by itself, or by another restart.
    InstanceStatus.ERROR: frozenset({InstanceStatus.ACTIVE, InstanceStatus.REBOOT, InstanceStatus.SHUTDOWN}),
    # A stopped server is started or deleted.
    InstanceStatus.SHUTDOWN: frozenset({InstanceStatus.REBOOT, InstanceStatus.ERROR, InstanceStatus.SHUTDOWN}),
}


class Rate(StrEnum):
    """The requests that are counted per minute (contract, section 8). Each has a setting ``<rate>_per_minute``."""

    BACKUP_CREATES = "backup_creates"
    BACKUP_DELETES = "backup_deletes"
    BACKUP_ACTIONS = "backup_actions"
    INSTANCE_CREATES = "instance_creates"
    INSTANCE_DELETES = "instance_deletes"
    INSTANCE_ACTIONS = "instance_actions"
    INSTANCE_RENAMES = "instance_renames"
    SCHEDULE_WRITES = "schedule_writes"
    USER_WRITES = "user_writes"  # of databases, users, rights and root
    LOGINS = "logins"  # per user, not per account: identity counts them for all regions
    READS = "reads"


class TaskState(StrEnum):
    """The state of a task: it waits for its host, is claimed under a lease, or has ended."""

    WAITING = "waiting"
    CLAIMED = "claimed"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Flavor:
    """The size of a server. The buffer pool gets half of the memory."""

    id: int
    ram_mb: int

    @property
    def name(self) -> str:
        """The name that Cloud Databases gave it."""
        return f"{self.ram_mb // 1024}GB Instance" if self.ram_mb >= 1024 else f"{self.ram_mb}MB Instance"


FLAVORS: Final[Mapping[int, Flavor]] = {n: Flavor(id=n, ram_mb=256 << n) for n in range(1, 9)}


@cache
def datastore_id(datastore: str) -> str:
    """The UUID of a type of datastore, the same in every deployment."""
    return str(uuid.uuid5(NAMESPACE, datastore))


@cache
def version_id(datastore: str, version: str) -> str:
    """The UUID of a version, the same in every deployment."""
    return str(uuid.uuid5(NAMESPACE, f"{datastore}/{version}"))


def rfc3339(time_us: int) -> str:
    """``YYYY-MM-DDTHH:MM:SSZ``: UTC, no fractions (contract, section 1)."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).isoformat().removesuffix("+00:00") + "Z"


def rfc3339_exact(time_us: int) -> str:
    """The same with microseconds, as a manifest has ``created``."""
    return f"{rfc3339(time_us)[:-1]}.{time_us % 1_000_000:06d}Z"


def parse_rfc3339(text: str) -> int:
    """Parse a time that ``rfc3339`` or ``rfc3339_exact`` wrote; in microseconds. Raises ``ValueError``."""
    time = datetime.fromisoformat(text)
    return int(time.replace(microsecond=0).timestamp()) * 1_000_000 + time.microsecond


def gigabytes(size_bytes: int) -> float:
    """GB as clients are shown them (``0.18``): two decimals, or six for less than 0.1."""
    exact = size_bytes / GIB
    return round(exact, 2) if exact >= 0.1 else round(exact, 6)


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine with database servers, as its agent last described it."""

    id: str
    name: str
    datastores: list[dict[str, str]]  # protocol.Datastore
    shared_system_user: bool
    accepts_shared: bool
    memory_mb: int | None = None  # None: not known
    networks: list[str] = field(default_factory=list)  # from which each of its instances gets an address
    instance_port: int | None = None
    taken: list[str] = field(default_factory=list)  # addresses of these networks that are in use
    created_us: int = 0
    session: str | None
    seen_us: int | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of backups, which may have a schedule: an instance, or a group, one member of which is read."""

    type: str  # "instance" | "ha"
    id: str


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A database server that the service manages."""

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
    hostname: str | None = None  # shown from the first answer on; None: made by an earlier release
    reserved_address: str | None = None  # the address that it is going to listen on
    address: str | None  # the address that it has listened on; None: it never ran
    port: int | None
    used_bytes: int | None
    running: bool
    step: str | None = None  # of a restore, like the next three
    done_bytes: int | None = None
    expected_bytes: int | None = None
    bytes_per_s: int | None = None
    reason: str | None
    restored_from: str | None
    incarnation: str | None = None  # of its data directory, as its host reports it; None: not known
    max_lsn: int | None = None  # the highest LSN reported in it
    ended_incarnation: str | None = None  # the last incarnation that has ended
    host_silent: bool = False  # its host has not answered for as long as a lease
    created_us: int
    updated_us: int
    deleted_us: int | None

    @property
    def source(self) -> Source:
        """The source of backups of this instance."""
        return Source(type="instance", id=self.id)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A copy of a backup to another region, as recorded where it comes from. Its id there is ``copy_id``."""

    id: str
    backup_id: str
    account: str
    region: str
    copy_id: str
    name: str
    description: str | None
    with_ancestors: bool  # ancestors that are missing there are copied first
    asked_by: str | None  # the user who requested it
    status: CopyStatus
    reason: str | None
    tries: int
    next_try_us: int | None  # None: it does not wait
    begun_us: int | None  # the time of its first try, which becomes the copy's time of creation
    created_us: int
    updated_us: int


@dataclass(frozen=True, kw_only=True)
class IncomingCopy:
    """A copy from another region that is not a backup yet, as recorded where it arrives."""

    id: str  # also that of the future backup
    account: str
    region: str  # the region that it comes from
    made_from: str  # the id of the backup there
    segments: int  # how many its data object will have
    created_us: int
    seen_us: int  # when an object of it last arrived
    ended_us: int | None  # when it ended: no object of it is accepted any more


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup: the request, and its result. A new backup has the defaults."""

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
    proving: VerificationLevel | None = None  # the level of a verification that is running
    mending: bool = False  # that verification repairs what is damaged
    proof_asked_us: int | None = None  # when a verification was requested that has not succeeded or failed yet
    proof_tried_us: int | None = None  # when it was last tried
    proof_status: VerificationStatus | None = None  # of the newest verification, like the next five
    proof_level: VerificationLevel | None = None
    proof_at_us: int | None = None
    proof_seconds: float | None = None
    proof_reason: str | None = None
    proof_mend_from: str | None = None  # the region that has a good copy
    copies: tuple[Copy, ...] = ()

    @property
    def running(self) -> bool:
        """Whether it is NEW or BUILDING."""
        return self.status in RUNNING

    @property
    def usable(self) -> bool:
        """Whether it can be restored, verified, copied and used as a parent: COMPLETED and not being deleted."""
        return self.status is BackupStatus.COMPLETED and not self.deleting and self.deleted_us is None

    @property
    def taken_from(self) -> str:
        """The id of the instance that was read: the source itself, or a member of the group."""
        return self.source_id if self.instance_id is None else self.instance_id


@dataclass(frozen=True, kw_only=True)
class WaitingFull:
    """An automated full backup that retention keeps, because backups that people made depend on it."""

    backup_id: str
    needed_by: Sequence[str]  # ids of these backups, oldest first


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of a source, in UTC. ``day_of_week``: of full backups, 0 is Sunday; 7: every backup is full."""

    id: str
    account: str
    source_type: str
    source_id: str
    day_of_week: int
    hour: int
    minute: int
    full_backup_retention: int
    copy_to: Sequence[str] | None
    asked_by: str | None  # the user who last changed it, and who requests its copies
    next_run_us: int
    last_run_us: int | None
    created_us: int
    updated_us: int
    deleted_us: int | None
    waiting_fulls: Sequence[WaitingFull] = ()


@dataclass(frozen=True, kw_only=True)
class DueRun:
    """A schedule that is due, with the state of its source and the source's host. None: they do not exist."""

    schedule: Schedule
    instance_status: InstanceStatus | None
    host_seen_us: int | None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a task. Its number is part of the name of every segment that it writes."""

    task_id: str
    kind: str
    number: int
    state: TaskState
    host_id: str
    instance_id: str | None
    backup_id: str | None
    account: str
    payload: Mapping[str, Any]  # what the host gets besides the ids; empty after the end of the task
    session: str | None
    lease_until_us: int | None
    created_us: int


def verification_is_due(asked_us: int, last_us: int, now_us: int, interval_us: int) -> bool:
    """Whether a verification that ended "unknown" is to be tried again.

    1. At least ``interval_us`` must have passed since the last try, and at least the time from the request to that try.
    2. A verification that was requested more than a day ago stays "unknown" until somebody requests another.
    """
    if now_us - asked_us > _VERIFICATION_RETRIED_US:
        return False
    return now_us - last_us >= max(interval_us, last_us - asked_us)


def copy_waits_us(tries: int) -> int | None:
    """How long a copy waits after so many tries without an answer from a store or a peer; None: it has failed.

    Five seconds, doubled each time, at most ten minutes: about two hours altogether.
    """
    return None if tries > _COPY_TRIES else min(5 << (tries - 1), 600) * 1_000_000


def copy_name(name: str) -> str:
    """The default name of a copy: ``<name>-copy``, at most 64 characters."""
    return f"{name}-copy"[:64]


def flavor_from_reference(reference: object) -> Flavor | None:
    """The flavor with this id, which is an int, a numeric string or the end of an href; None if there is none."""
    if isinstance(reference, bool) or not isinstance(reference, (int, str)):
        return None
    tail = str(reference).rstrip("/").rsplit("/", 1)[-1]
    return FLAVORS.get(int(tail)) if tail.isascii() and tail.isdigit() and len(tail) < 4 else None


def addresses_in(networks: Sequence[str], key: str) -> Iterator[str]:
    """The addresses that servers may get, those of the first network first, in an order that depends on ``key``.

    Addresses that end in 0 or 255 are left out, because they are often mistaken for network or broadcast addresses.
    """
    for network in map(ipaddress.ip_network, networks):
        for step in from_there(first_choice(key, network.num_addresses), network.num_addresses):
            if network.num_addresses <= 2 or (int(network[0]) + step) & 0xFF not in {0, 0xFF}:
                yield str(network[step])


def first_choice(key: str, among: int) -> int:
    """Where the search for a free number starts. It depends on the key, so that two services rarely collide."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % among


def from_there(start: int, count: int) -> Iterator[int]:
    """All numbers below ``count``: ``start``, ``start + 1`` …, then 0 up to ``start``."""
    return ((start + step) % count for step in range(count))


def rank_hosts(
    hosts: Sequence[Host], load: Mapping[str, int], others: Mapping[str, set[str]], account: str
) -> list[Host]:
    """The hosts that may take a new instance of the account, the best first.

    1. If its servers share a system user, and it does not accept several accounts, a host that has instances of another
       account is left out.
    2. The host with the fewest instances comes first; hosts with equally many are ordered by name.
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
    """Whether a run that begins now is full. ``newest_full_us``: when the newest automated full was requested, if any.

    1. It is full if every run is to be full, or there is no full backup yet.
    2. It is full if the weekly time of full backups has come since the newest one. So the next run, on whatever day,
       makes up for a full backup that was missed or has FAILED.
    """
    if schedule.day_of_week == 7 or newest_full_us is None:
        return True
    latest = next_run_us(now_us, schedule.hour, schedule.minute) - DAY_US
    weekday = (latest // DAY_US + 4) % 7  # day 0 of the epoch was a Thursday
    return newest_full_us < latest - (weekday - schedule.day_of_week) % 7 * DAY_US


def what_run_waits_for(run: DueRun, *, running: int, limit: int, hosts_since_us: int) -> str | None:
    """Why a run that is due cannot begin yet; None if it can. ``limit``: of the running backups; 0: no limit.

    1. Its instance must be ACTIVE. The run waits for one that is deleted or in ERROR as for one that is busy.
    2. Its host must have answered since ``hosts_since_us``.
    3. The account must have fewer ``running`` backups than the limit.
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

    1. Only COMPLETED full backups that are not being deleted count.
    2. None expires until a further one has been requested and completed since the schedule was last changed.
    3. Otherwise all but the newest ``full_backup_retention`` expire.

    Those that backups made by people depend on are kept for now (``needed_by_people``).
    """
    counted = [full for full in fulls if full.status is BackupStatus.COMPLETED and not full.deleting]
    counted.sort(key=lambda full: (full.created_us, full.id))
    if not counted or counted[-1].created_us <= schedule.updated_us:
        return []
    return counted[: -schedule.full_backup_retention]


def needed_by_people(backup_id: str, family: Sequence[Backup]) -> list[str]:
    """The backups because of which retention keeps this one, oldest first. ``family``: it and all its descendants.

    1. Retention removes only backups that schedules requested; people delete theirs themselves.
    2. A backup that has FAILED or is being deleted needs no parent any more.
    """
    kept = (BackupStatus.NEW, BackupStatus.BUILDING, BackupStatus.COMPLETED)
    needing = [
        member
        for member in family
        if member.id != backup_id and not member.is_automated and not member.deleting and member.status in kept
    ]
    return [member.id for member in sorted(needing, key=lambda member: (member.created_us, member.id))]


def is_engine_file(database: str) -> bool:
    """Whether MariaDB, or the preparation of a backup, needs a file with the name of this database.

    A server with such a database does not start again, or none of its backups can be restored.
    """
    return _ENGINE_FILE.fullmatch(database) is not None
