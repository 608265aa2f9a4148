"""What clients get, as types: each with a function that makes it from what the service knows.

Keys that are sometimes left out say so (``exclude_if``); all the others are in every answer.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from snaphold.api.links import Links
from snaphold.model import FLAVORS as FLAVOR_OF
from snaphold.model import (
    Backup,
    BackupStatus,
    CopyStatus,
    Flavor,
    Instance,
    InstanceStatus,
    Schedule,
    VerificationLevel,
    VerificationStatus,
    datastore_id,
    gigabytes,
    rfc3339,
    version_id,
)
from snaphold.protocol import Datastore
from snaphold.service.limits import Standing
from snaphold.service.placement import Offer

MYSQL_PORT: Final = 3306  # what clients take for granted


def _absent(value: object) -> bool:
    return value is None


T = TypeVar("T")
Sometimes = Annotated[T | None, Field(default=None, exclude_if=_absent)]


class HostCallAnswer(BaseModel):
    """A part of an answer: it has the keys that are declared, and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Link(HostCallAnswer):
    """Where something is found."""

    href: str
    rel: str


class BackupDatastore(HostCallAnswer):
    """What the backup is of."""

    type: str
    version: str
    version_id: str


class BackupSource(HostCallAnswer):
    """Which instance or HA group it was taken from."""

    type: str
    id: str


class ProgressAnswer(HostCallAnswer):
    """How far a running backup or restore is. What cannot be told yet is null.

    Bytes are those of the source's files, or of the stream that is extracted; the rate is of the last ten seconds.
    """

    step: str | None
    done_bytes: int | None
    expected_bytes: int | None
    percent: int | None
    bytes_per_s: int | None
    seconds_left: int | None


class Verification(HostCallAnswer):
    """What the newest verification of a backup has shown: when it ended, how long it took.

    ``reason``: why it did not pass, or which tables are not sound, as they were in the source.
    ``mend_from``: the region that has what is damaged; the action ``mend`` brings it from there.
    """

    status: VerificationStatus
    level: VerificationLevel
    at: str
    seconds: float
    reason: Sometimes[str] = None
    mend_from: Sometimes[str] = None


class CopyAnswer(HostCallAnswer):
    """A copy in another region: ``id`` is the backup's id there, once it is COMPLETED."""

    region: str
    id: str
    status: CopyStatus
    reason: str | None


class BackupAnswer(HostCallAnswer):
    """A backup. ``size`` and ``volume_size`` in GB, ``flavor_ram`` in MB, ``object_size`` in bytes."""

    id: str
    name: str
    description: str | None
    status: BackupStatus
    created: str
    updated: str
    instance_id: str | None
    source: BackupSource
    parent_id: str | None
    datastore: BackupDatastore
    type: Literal["InnoBackupEx", "InnoBackupExIncremental"]
    size: float | None
    volume_size: int
    flavor_ram: int
    is_automated: Literal[0, 1]
    locationRef: str | None  # noqa: N815 - the chapter's name
    project_id: str
    object_size: Sometimes[int] = None
    progress: Sometimes[ProgressAnswer] = None
    reason: Sometimes[str] = None
    verification: Sometimes[Verification] = None
    copies: Sometimes[list[CopyAnswer]] = None


class NewBackupAnswer(BackupAnswer):
    """A backup in the answer to its creation, where ``is_automated`` is a boolean."""

    is_automated: bool  # type: ignore[assignment]


class BackupCreated(HostCallAnswer):
    """The answer to ``POST /backups``."""

    backup: NewBackupAnswer


class BackupShown(HostCallAnswer):
    """One backup."""

    backup: BackupAnswer


class BackupList(HostCallAnswer):
    """A page of backups, newest first. Without ``links`` there are no more."""

    backups: list[BackupAnswer]
    links: Sometimes[list[Link]] = None


class InstanceFlavor(HostCallAnswer):
    """An instance's flavor; its id is a string here."""

    id: str
    links: list[Link]


class VolumeAnswer(HostCallAnswer):
    """GB. ``used`` is there once it was measured."""

    size: int
    used: Sometimes[float] = None


class InstanceDatastore(HostCallAnswer):
    """What the instance runs."""

    type: str
    version: str


class Address(HostCallAnswer):
    """Where the instance listens."""

    address: str
    type: str


class InstanceAnswer(HostCallAnswer):
    """An instance. ``port`` is there when it is not 3306.

    ``hostname`` is a name or address that clients can connect to once the instance is ACTIVE. It is chosen with the
    instance and stays; it is null only for one that an earlier release began and that never ran.
    """

    id: str
    name: str
    status: InstanceStatus
    operating_status: str
    created: str
    updated: str
    flavor: InstanceFlavor
    volume: VolumeAnswer
    datastore: InstanceDatastore
    region: str
    hostname: str | None
    ip: list[str]
    addresses: list[Address]
    links: list[Link]
    port: Sometimes[int] = None
    progress: Sometimes[ProgressAnswer] = None
    reason: Sometimes[str] = None


class InstanceShown(HostCallAnswer):
    """One instance."""

    instance: InstanceAnswer


class InstanceList(HostCallAnswer):
    """A page of instances, newest first. Without ``links`` there are no more."""

    instances: list[InstanceAnswer]
    links: Sometimes[list[Link]] = None


class DatabaseAnswer(HostCallAnswer):
    """A database that clients made."""

    name: str
    character_set: Sometimes[str] = None
    collate: Sometimes[str] = None


class DatabaseList(HostCallAnswer):
    """A page of databases, by name."""

    databases: list[DatabaseAnswer]
    links: Sometimes[list[Link]] = None


class DatabaseName(HostCallAnswer):
    """A database that a user may use."""

    name: str


class UserAnswer(HostCallAnswer):
    """A database user that clients made."""

    name: str
    host: str
    databases: list[DatabaseName]


class UserShown(HostCallAnswer):
    """One user."""

    user: UserAnswer


class UserList(HostCallAnswer):
    """A page of users, by name."""

    users: list[UserAnswer]
    links: Sometimes[list[Link]] = None


class GrantList(HostCallAnswer):
    """The databases that a user may use."""

    databases: list[DatabaseName]


class RootShown(HostCallAnswer):
    """Whether clients may log in as root."""

    rootEnabled: bool  # noqa: N815 - the field's name


class RootUser(HostCallAnswer):
    """Who was enabled; the password is shown this once."""

    name: Literal["root"]
    password: str = Field(repr=False)


class RootEnabled(HostCallAnswer):
    """The answer to enabling root."""

    user: RootUser


class FlavorAnswer(HostCallAnswer):
    """A size of server; ``ram`` in MB. The id is a number here."""

    id: int
    name: str
    ram: int
    links: list[Link]


class FlavorShown(HostCallAnswer):
    """One flavor."""

    flavor: FlavorAnswer


class FlavorList(HostCallAnswer):
    """All flavors, by id."""

    flavors: list[FlavorAnswer]


class VersionAnswer(HostCallAnswer):
    """A version of a datastore. ``id`` is what a backup calls ``version_id``."""

    id: str
    name: str
    datastore: str
    full_version: str
    active: bool
    links: list[Link]


class VersionShown(HostCallAnswer):
    """One version of a datastore."""

    version: VersionAnswer


class VersionList(HostCallAnswer):
    """The versions of a datastore that hosts can run, newest first."""

    versions: list[VersionAnswer]


class DatastoreAnswer(HostCallAnswer):
    """A datastore that hosts can run."""

    id: str
    name: str
    default_version: str
    versions: list[VersionAnswer]
    links: list[Link]


class DatastoreShown(HostCallAnswer):
    """One datastore."""

    datastore: DatastoreAnswer


class DatastoreList(HostCallAnswer):
    """What hosts can run."""

    datastores: list[DatastoreAnswer]


class AbsoluteLimits(HostCallAnswer):
    """What is limited however slowly one goes. 0: no limit, but for ``max_page`` and ``max_body_bytes``.

    ``max_volumes``: GB of all the account's volumes.
    """

    verb: Literal["ABSOLUTE"]
    max_backups: int
    max_running_backups: int
    max_instances: int
    max_volumes: int
    max_page: int
    max_body_bytes: int


class RateLimit(HostCallAnswer):
    """How many requests of a kind are accepted within a minute, and how many more are now; ``nextAvailable``: when."""

    verb: str
    uri: str
    value: int
    remaining: int
    unit: Literal["MINUTE"]
    nextAvailable: str  # noqa: N815 - the field's name


class LimitList(HostCallAnswer):
    """Every limit: the absolute ones first, then the rates."""

    limits: list[AbsoluteLimits | RateLimit]


class GroupList(HostCallAnswer):
    """HA groups."""

    ha_instances: list[dict[str, Any]]


class WaitingFullAnswer(HostCallAnswer):
    """A full backup that the schedule would have deleted: backups that were asked for by hand depend on it."""

    backup_id: str
    needed_by: list[str]


class ScheduleAnswer(HostCallAnswer):
    """A schedule of backups, in UTC. Without ``copy_to`` nothing is copied; the nulls are what clients look for."""

    id: str
    action: Literal["backup"]
    instance_id: str | None
    source_type: str
    source_id: str
    minute: int
    hour: int
    day_of_week: int
    day_of_month: None
    month: None
    full_backup_retention: int
    copy_to: list[str] | None
    next_run: str
    last_scheduled: str | None
    created: str
    updated: str
    retention_waits: Sometimes[list[WaitingFullAnswer]] = None


class ScheduleShown(HostCallAnswer):
    """One schedule."""

    schedule: ScheduleAnswer


class ScheduleList(HostCallAnswer):
    """A page of schedules, newest first. Without ``links`` there are no more."""

    schedules: list[ScheduleAnswer]
    links: Sometimes[list[Link]] = None


def shown_schedule(schedule: Schedule) -> ScheduleAnswer:
    """A schedule as clients see it."""
    return ScheduleAnswer(
        id=schedule.id,
        action="backup",
        instance_id=schedule.source_id if schedule.source_type == "instance" else None,
        source_type=schedule.source_type,
        source_id=schedule.source_id,
        minute=schedule.minute,
        hour=schedule.hour,
        day_of_week=schedule.day_of_week,
        day_of_month=None,
        month=None,
        full_backup_retention=schedule.full_backup_retention,
        copy_to=None if schedule.copy_to is None else list(schedule.copy_to),
        next_run=rfc3339(schedule.next_run_us),
        last_scheduled=None if schedule.last_run_us is None else rfc3339(schedule.last_run_us),
        created=rfc3339(schedule.created_us),
        updated=rfc3339(schedule.updated_us),
        retention_waits=[
            WaitingFullAnswer(backup_id=full.backup_id, needed_by=list(full.needed_by))
            for full in schedule.waiting_fulls
        ]
        or None,
    )


class ApiVersion(HostCallAnswer):
    """A version of the API."""

    id: str
    status: str
    updated: str
    links: list[Link]


class ApiVersionList(HostCallAnswer):
    """The versions of the API."""

    versions: list[ApiVersion]


def created_backup(links: Links, backup: Backup) -> BackupCreated:
    """The answer to a backup's creation."""
    return BackupCreated(backup=NewBackupAnswer(**_backup(links, backup), is_automated=backup.is_automated))


def shown_backup(links: Links, backup: Backup) -> BackupAnswer:
    """A backup in a list, or shown."""
    return BackupAnswer(**_backup(links, backup), is_automated=1 if backup.is_automated else 0)


def _backup(links: Links, backup: Backup) -> dict[str, Any]:
    completed = backup.object_name is not None and backup.status is not BackupStatus.FAILED and not backup.running
    location = links.object(backup.account, backup.object_name) if completed and backup.object_name else None
    return {
        "id": backup.id,
        "name": backup.name,
        "description": backup.description,
        "status": backup.status,
        "created": rfc3339(backup.created_us),
        "updated": rfc3339(backup.updated_us),
        "instance_id": backup.instance_id,
        "source": BackupSource(type=backup.source_type, id=backup.source_id),
        "parent_id": backup.parent_id,
        "datastore": _backup_datastore(backup.datastore, backup.version),
        "type": "InnoBackupEx" if backup.parent_id is None else "InnoBackupExIncremental",
        "size": None if backup.size_bytes is None else gigabytes(backup.size_bytes),
        "volume_size": backup.volume_gb,
        "flavor_ram": backup.flavor_ram_mb,
        "locationRef": location,
        "project_id": backup.account,
        "object_size": backup.object_bytes,
        "progress": _progress(backup) if backup.running else None,
        "reason": backup.reason,
        "verification": _verification(backup),
        "copies": [
            CopyAnswer(region=copy.region, id=copy.copy_id, status=copy.status, reason=copy.reason)
            for copy in backup.copies
        ]
        or None,
    }


@cache
def _backup_datastore(datastore: str, version: str) -> BackupDatastore:
    return BackupDatastore(type=datastore, version=version, version_id=version_id(datastore, version))


def _verification(backup: Backup) -> Verification | None:
    if backup.proof_status is None or backup.proof_level is None or backup.proof_at_us is None:
        return None
    return Verification(
        status=backup.proof_status,
        level=backup.proof_level,
        at=rfc3339(backup.proof_at_us),
        seconds=backup.proof_seconds or 0.0,
        reason=backup.proof_reason,
        mend_from=backup.proof_mend_from,
    )


def _progress(subject: Backup | Instance) -> ProgressAnswer:
    done, expected, rate = subject.done_bytes, subject.expected_bytes, subject.bytes_per_s
    if done is not None and expected is not None:
        expected = max(done, expected)
    left_bytes = max(0, expected - done) if done is not None and expected else None
    return ProgressAnswer(
        step=subject.step,
        done_bytes=done,
        expected_bytes=expected,
        percent=min(99, 100 * done // expected) if done is not None and expected else None,  # 100 is the end's to say
        bytes_per_s=rate,
        seconds_left=-(-left_bytes // rate) if left_bytes is not None and rate else None,
    )


def shown_instance(links: Links, region: str, instance: Instance) -> InstanceAnswer:
    """An instance in a list, or shown."""
    used = None if instance.used_bytes is None else gigabytes(instance.used_bytes)
    address = instance.address or instance.reserved_address
    return InstanceAnswer(
        id=instance.id,
        name=instance.name,
        status=instance.status,
        operating_status=_operating_status(instance),
        created=rfc3339(instance.created_us),
        updated=rfc3339(instance.updated_us),
        flavor=InstanceFlavor(
            id=str(instance.flavor_id), links=_links(links, instance.account, f"flavors/{instance.flavor_id}")
        ),
        volume=VolumeAnswer(size=instance.volume_gb, used=used),
        datastore=InstanceDatastore(type=instance.datastore, version=instance.version),
        region=region,
        hostname=instance.hostname or address,
        ip=[] if address is None else [address],
        addresses=[] if address is None else [Address(address=address, type="private")],
        links=_links(links, instance.account, f"instances/{instance.id}"),
        port=None if instance.port in (None, MYSQL_PORT) else instance.port,
        progress=_progress(instance) if instance.step is not None else None,
        reason=instance.reason,
    )


def _operating_status(instance: Instance) -> str:
    """In the words of the OpenStack service that this API's clients know; UNKNOWN while its host is silent."""
    if instance.host_silent and instance.address is not None:
        return "UNKNOWN"
    match instance.status:
        case InstanceStatus.BUILD:
            return "NEW"
        case InstanceStatus.REBOOT | InstanceStatus.RESIZE | InstanceStatus.SHUTDOWN:
            return "SHUTDOWN"
        case InstanceStatus.ACTIVE | InstanceStatus.BACKUP if instance.running:
            return "HEALTHY"
        case _:
            return "CRASHED"


def shown_flavor(links: Links, account: str, flavor: Flavor) -> FlavorAnswer:
    """A flavor."""
    return FlavorAnswer(
        id=flavor.id, name=flavor.name, ram=flavor.ram_mb, links=_links(links, account, f"flavors/{flavor.id}")
    )


def all_flavors(links: Links, account: str) -> list[FlavorAnswer]:
    """Every flavor, by id."""
    return [shown_flavor(links, account, flavor) for _, flavor in sorted(FLAVOR_OF.items())]


def shown_datastores(links: Links, account: str, offers: Sequence[Offer]) -> list[DatastoreAnswer]:
    """What is offered, by type, with the version of each that an instance gets when none is named."""
    by_type: dict[str, list[VersionAnswer]] = {}
    defaults: dict[str, str] = {}
    for offer in offers:
        shown = _shown_version(links, account, offer.datastore)
        by_type.setdefault(offer.datastore.type, []).append(shown)
        if offer.is_default:
            defaults[offer.datastore.type] = shown.id
    return [
        DatastoreAnswer(
            id=datastore_id(name),
            name=name,
            default_version=defaults[name],
            versions=versions,
            links=_links(links, account, f"datastores/{datastore_id(name)}"),
        )
        for name, versions in sorted(by_type.items())
    ]


def _shown_version(links: Links, account: str, entry: Datastore) -> VersionAnswer:
    own_id = version_id(entry.type, entry.version)
    return VersionAnswer(
        id=own_id,
        name=entry.version,
        datastore=datastore_id(entry.type),
        full_version=entry.full_version,
        active=True,
        links=_links(links, account, f"datastores/{datastore_id(entry.type)}/versions/{own_id}"),
    )


def shown_rate(verb: str, uri: str, standing: Standing) -> RateLimit:
    """Where an account stands with a rate."""
    return RateLimit(
        verb=verb,
        uri=uri,
        value=standing.limit,
        remaining=standing.remaining,
        unit="MINUTE",
        nextAvailable=rfc3339(standing.next_us + 999_999),
    )


def shown_user(user: Mapping[str, Any]) -> UserAnswer:
    """A user, as its host told of it."""
    names = [DatabaseName(name=database["name"]) for database in user["databases"]]
    return UserAnswer(name=user["name"], host=user["host"], databases=names)


def shown_database(database: Mapping[str, Any]) -> DatabaseAnswer:
    """A database, as its host told of it."""
    return DatabaseAnswer(
        name=database["name"], character_set=database.get("character_set"), collate=database.get("collate")
    )


def next_links(hrefs: Sequence[Mapping[str, str]] | None) -> list[Link] | None:
    """``links`` of a page, None where there is no next one."""
    return None if hrefs is None else [Link(**href) for href in hrefs]


def _links(links: Links, account: str, path: str) -> list[Link]:
    return [Link(**link) for link in links.of(account, path)]
