"""The messages between an agent and the API (``/agent/v1``): JSON over HTTP, with the host's bearer token.

    POST /agent/v1/hello                    Hello    → Welcome      opens a session; every agent process has its own
    POST /agent/v1/heartbeat                Heartbeat→ Desired      every ``renew_s`` of Welcome
    POST /agent/v1/claim                    Claim    → Work         long poll: a task, a host call, or nothing
    POST /agent/v1/tasks/{id}/progress      Progress → {}           renews the lease
    POST /agent/v1/tasks/{id}/report        Report   → {}           ends the task; compare-and-set by attempt
    POST /agent/v1/questions/{id}/answer    Answer   → {}

Every message carries the agent's ``session``. ``hello`` ends the attempts of earlier processes of the same host. 409 to
``progress`` or ``report`` means *superseded*: the attempt must stop and remove what it wrote. 401 means that the token
is not valid, or not any more. Messages contain ids, names, numbers and password hashes, but never a password or a
caller's token.

Neither side trusts the other: every text has a form or a maximum length, every list a maximum number of entries, every
number a range that the catalog can store. A message that does not comply is refused as a whole (400).
"""

import ipaddress
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from snaphold.model import ID_FORM, KNOWN_DATASTORES, VerificationLevel, VerificationStatus, parse_rfc3339
from snaphold.objects import DATA_OBJECT_FORM, MAX_SEGMENT_SIZE, SEGMENT_SIZE

VERSION = 1
MAX_INSTANCES: Final = 10_000  # of one host
MAX_TAKEN: Final = 20_000  # addresses
MAX_REASON: Final = 4_000  # characters of a reason; a longer one is cut
MAX_FAULT: Final = 300  # the same for the fault of an instance: a heartbeat may have 10,000 of them
MAX_DESCRIPTION: Final = 65_535  # characters of a backup's description
_MAX_AT_WORK: Final = 1_000
_MAX_WANTED: Final = 1_000
_MAX_NAMES: Final = 100_000  # of databases and users of an instance
_MAX_OBJECTS: Final = 1_000_000  # of one backup


def _shortened(text: object, *, most: int = MAX_REASON) -> object:
    """Cut a text after ``most`` characters. Characters that are not printable, except line feeds, become spaces."""
    if not isinstance(text, str):
        return text
    text = text[:most]
    if text.isprintable():  # nearly all are; the loop is slow, and a host may send thousands of texts
        return text
    return "".join([letter if letter.isprintable() or letter == "\n" else " " for letter in text])


def _checked_time(text: str) -> str:
    if parse_rfc3339(text) < 0:
        raise ValueError("must not be before 1970")
    return text


def _checked_address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _checked_network(text: str) -> str:
    return str(ipaddress.ip_network(text))


Number = Annotated[int, Field(ge=0, lt=1 << 63)]  # as large as the catalog can store
Small = Annotated[int, Field(ge=0, lt=1 << 31)]  # MB, GB, numbers of attempts
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Reason = Annotated[str, BeforeValidator(_shortened)]  # for people
Fault = Annotated[str, BeforeValidator(partial(_shortened, most=MAX_FAULT))]  # of an instance, for people
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Session = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,36}$")]
Account = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
User = Annotated[str, Field(pattern=r"^\S{1,128}$")]
RegionName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
Incarnation = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ObjectName = Annotated[str, Field(pattern=f"^{DATA_OBJECT_FORM}$")]  # of a backup's data
DatastoreType = Annotated[str, Field(pattern=f"^(?:{'|'.join(KNOWN_DATASTORES)})$")]
Series = Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")]  # "10.11"
FullVersion = Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$")]  # "10.11.19"
Time = Annotated[  # RFC 3339, UTC
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z$"), AfterValidator(_checked_time)
]
NameTold = Annotated[str, Field(max_length=255)]  # of an object in a database server
Port = Annotated[int, Field(ge=1, le=65_535)]
Address = Annotated[
    str, Field(pattern=r"^[0-9A-Fa-f:.]{2,45}$"), AfterValidator(_checked_address)
]  # IP address, not a name
Network = Annotated[str, Field(pattern=r"^[0-9A-Fa-f:./]{2,50}$"), AfterValidator(_checked_network)]


class Message(BaseModel):
    """A message. It is immutable, and ignores keys that a newer peer may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Nothing(Message):
    """The answer ``{}``."""


class TaskKind(StrEnum):
    """The kinds of tasks. The comments say what becomes of the object when the host stops answering."""

    CREATE = "create"  # ERROR
    RESTORE = "restore"  # ERROR
    BACKUP = "backup"  # FAILED; its objects are removed
    RESTART = "restart"  # resumed when the host is back, as are the next three
    STOP = "stop"
    START = "start"
    RESIZE = "resize"
    DELETE = "delete"  # resumed when the host is back
    CONSOLIDATE = "consolidate"  # FAILED; its objects are removed
    VERIFY = "verify"  # the verification is unknown


class HostCallKind(StrEnum):
    """The kinds of host calls: requests to a server whose callers wait. The comments have payload and answer."""

    LIST_DATABASES = "list_databases"  # {} → {"databases": [{"name", "character_set", "collate"}]}
    CREATE_DATABASES = "create_databases"  # {"databases": [DatabaseSpec]} → {}
    DELETE_DATABASE = "delete_database"  # {"name"} → {}
    LIST_USERS = "list_users"  # {} → {"users": [{"name", "host", "databases": [{"name"}]}]}
    CREATE_USERS = "create_users"  # {"users": [UserSpec]} → {}
    DELETE_USER = "delete_user"  # {"name", "host"} → {}
    CHANGE_USERS = "change_users"  # {"users": [UserChange]} → {}
    GRANT = "grant"  # {"name", "host", "databases": [name]} → {}
    REVOKE = "revoke"  # {"name", "host", "database"} → {}
    SHOW_ROOT = "show_root"  # {} → {"enabled"}
    ENABLE_ROOT = "enable_root"  # {"password_hash"} → {}
    DISABLE_ROOT = "disable_root"  # {} → {}


class DatabaseTold(Message):
    """A database that clients created."""

    name: NameTold
    character_set: NameTold | None = None
    collate: NameTold | None = None


class DatabasesTold(Message):
    """The answer to LIST_DATABASES."""

    databases: Annotated[list[DatabaseTold], Field(max_length=_MAX_NAMES)]


class RightTold(Message):
    """A database that a user has rights on."""

    name: NameTold


class UserTold(Message):
    """A database user that clients created."""

    name: NameTold
    host: NameTold
    databases: Annotated[list[RightTold], Field(max_length=_MAX_NAMES)]


class UsersTold(Message):
    """The answer to LIST_USERS."""

    users: Annotated[list[UserTold], Field(max_length=_MAX_NAMES)]


class RootTold(Message):
    """The answer to SHOW_ROOT."""

    enabled: bool


class Datastore(Message):
    """A database engine and version that is installed on a host."""

    type: DatastoreType  # "mariadb"
    version: Series
    full_version: FullVersion

    @model_validator(mode="after")
    def _is_of_its_series(self) -> Self:
        if not self.full_version.startswith(f"{self.version}."):
            raise ValueError("full_version must be one of version")
        return self


class InstanceState(Message):
    """The state of an instance, as its host observes it."""

    id: Id
    running: bool
    used_bytes: Number | None = None
    incarnation: Incarnation | None = None  # of its data directory
    max_lsn: Number | None = None  # LSN up to which its redo log is on the disk
    fault: Fault | None = None  # why it does not run


TakenAddresses = Annotated[list[Address], Field(max_length=MAX_TAKEN)]  # those that no new instance can get
InstanceStates = Annotated[list[InstanceState], Field(max_length=MAX_INSTANCES)]


class Hello(Message):
    """An agent process has started."""

    protocol: Number = VERSION
    session: Session
    datastores: Annotated[list[Datastore], Field(max_length=32)]
    instances: InstanceStates
    shared_system_user: bool  # True: not root, every server runs as the same system user
    accepts_shared: bool  # whether such a host takes instances of several accounts
    memory_mb: Small | None = None  # of the machine
    networks: Annotated[list[Network], Field(max_length=64)] = []  # from which each instance gets an address
    instance_port: Port | None = None
    taken: TakenAddresses = []


class Heartbeat(Message):
    """The host is alive; these are the states of its instances."""

    session: Session
    instances: InstanceStates
    taken: TakenAddresses = []


class Desired(Message):
    """The desired states of the instances that the agent named. An instance that is not listed is left alone."""

    instances: dict[str, Literal["running", "stopped", "absent"]]


class Welcome(Desired):
    """The answer to Hello."""

    host_id: str
    region: str
    lease_s: float
    renew_s: float


class Claim(Message):
    """A request for work, which may wait up to ``wait_s`` seconds for it."""

    session: Session
    wait_s: float = Field(ge=0, le=60)
    accept_tasks: bool = True  # False: host calls only
    free_slots: Small | None = None  # how many further tasks could begin
    at_work: Annotated[dict[Id, Number], Field(max_length=_MAX_AT_WORK)] = {}  # running attempts by task; the
    # answer names those that were abandoned


class DatabaseSpec(Message):
    """A database to create."""

    name: str
    character_set: str | None = None
    collate: str | None = None


class UserSpec(Message):
    """A database user to create; ``password_hash`` is MariaDB's ``*`` + 40 hexadecimal digits."""

    name: str
    host: str = "%"
    password_hash: str
    databases: list[str] = []


class UserChange(Message):
    """The changes to a database user. None: no change."""

    name: str
    host: str = "%"
    new_name: str | None = None
    new_host: str | None = None
    password_hash: str | None = None


class Memory(Message):
    """The memory that a server is to start with, and its former memory, to return to if it does not start; in MiB."""

    ram_mb: int
    former_ram_mb: int


class InstanceSpec(Message):
    """Everything that a host needs to create the server of an instance."""

    id: str
    account: str
    name: str
    datastore: str  # type
    version: str
    ram_mb: int
    volume_gb: int
    address: Address | None = None  # None: the host chooses one
    databases: list[DatabaseSpec] = []
    users: list[UserSpec] = []


class ChainLink(Message):
    """One backup of a chain. A manifest is trusted only if it has this hash."""

    backup_id: str
    account: str
    manifest_sha256: str


class BackupSpec(Message):
    """Everything that a host needs to take a backup. Most of it is only copied to the manifest."""

    id: str
    account: str
    instance_id: str
    deployment: str  # part of the segments' names
    name: str
    description: str | None
    source_type: Literal["instance", "ha"] = "instance"
    source_id: str
    parent_id: str | None = None
    parent_named: bool = True  # False: the catalog chose the parent; a full backup may be taken instead
    max_lsn: int | None = None  # the highest that the catalog knows; a lower LSN means another incarnation
    ended_incarnation: str | None = None  # it has ended, whatever the data directory says
    created: str  # RFC 3339 with microseconds
    is_automated: bool = False
    volume_gb: int
    flavor_ram_mb: int
    datastore: str
    version: str
    version_id: str
    verify: VerificationLevel | None = None  # the verification that the backup must pass before it is COMPLETED


class Task(Message):
    """A claimed task. Exactly the fields of its kind are set.

    ``chain``: the full backup first, each increment after its parent. It ends with the backup to restore, verify or
    consolidate, or with the parent of the backup to take.
    """

    id: str
    kind: TaskKind
    attempt: int
    instance_id: str | None = None  # None: the task has no instance (CONSOLIDATE, VERIFY)
    lease_s: float
    instance: InstanceSpec | None = None  # CREATE, RESTORE
    chain: list[ChainLink] = []  # RESTORE, VERIFY, CONSOLIDATE; BACKUP of an increment
    backup: BackupSpec | None = None  # BACKUP, CONSOLIDATE
    memory: Memory | None = None  # RESIZE, RESTART, START


class HostCall(Message):
    """A request whose caller waits. Nobody reads an answer that comes after ``deadline_s`` seconds."""

    id: str
    kind: HostCallKind
    instance_id: str
    deadline_s: float
    payload: dict[str, Any]


class Work(Message):
    """The answer to Claim. It is empty when there was no work."""

    task: Task | None = None
    question: HostCall | None = None
    given_up: list[str] = []  # tasks of ``at_work`` that were abandoned: their attempts must stop, as after 409


class Progress(Message):
    """The attempt continues. None: the value has not changed since an earlier message."""

    session: Session
    attempt: Small
    step: Annotated[str, Field(pattern=r"^[ -~]{1,64}$")] | None = None  # the step's name, for people
    size_bytes: Number | None = None  # used by the source's data (backup)
    done_bytes: Number | None = None
    expected_bytes: Number | None = None
    bytes_per_s: Number | None = None


class VerificationResult(Message):
    """The result of a verification."""

    status: VerificationStatus
    level: VerificationLevel
    at: Time  # when it ended, with seconds
    seconds: Seconds
    reason: Reason | None = None  # why it did not pass
    mend_from: RegionName | None = None  # the region that has a good copy, as far as is recorded


class BackupResult(Message):
    """What the catalog records of a completed backup."""

    manifest_sha256: Sha256
    parent_id: Id | None = None  # None if a full backup was taken instead of an increment
    size_bytes: Number
    object_bytes: Number
    object_name: ObjectName
    incarnation: Incarnation
    from_lsn: Number | None
    checkpoint_lsn: Number | None  # the start checkpoint, from which an increment may start
    to_lsn: Number
    updated: Time  # as in the manifest, with seconds
    proof: VerificationResult | None = None  # set if a verification was asked for: passed


class InstanceResult(Message):
    """The address of a created or restored instance."""

    address: Address
    port: Port
    used_bytes: Number
    full_version: FullVersion


class Report(Message):
    """The result of an attempt. ``reason`` is for people, and set exactly when ``ok`` is False."""

    session: Session
    attempt: Small
    ok: bool
    reason: Reason | None = None
    backup: BackupResult | None = None
    instance: InstanceResult | None = None
    proof: VerificationResult | None = None  # VERIFY


class HostCallAnswer(Message):
    """The answer to a host call. ``error``: the name of a subclass of snaphold.errors.Refused, or "Unavailable"."""

    session: Session
    ok: bool
    payload: dict[str, Any] = {}
    error: Annotated[str, Field(max_length=32)] | None = None
    message: Reason | None = None


class PeerQuery(Message):
    """``POST /peer/v1/copies``: which of these backups does the asked region have?

    ``wanted``: ids in the asking region, each with the id of the backup in the asked region that it was copied from, or
    null. ``user``: who wants to copy them to the asked region; 403: this user may not.
    """

    version: int = VERSION
    account: Account
    region: RegionName  # the asking region
    wanted: Annotated[dict[Id, Id | None], Field(max_length=_MAX_WANTED)]
    user: User | None = None


class PeerCopy(Message):
    """The asked region's copy of a backup of the asking region."""

    id: Id
    manifest_sha256: Sha256


class PeerAnswer(Message):
    """The deployment of the asked region, and its copies by the ids of the asking region.

    ``full``: why the account may not copy more backups there; None: it may.
    """

    deployment: Id
    copies: Annotated[dict[Id, PeerCopy], Field(max_length=_MAX_WANTED)]
    full: Reason | None = None


class PeerAnnouncement(Message):
    """``POST /peer/v1/announce`` → {}: a copy begins. Its objects may be written until the copy is recorded.

    Each try announces it again. 403: the user may not; 413: the account is at its limit; 422: the copy was abandoned.
    """

    version: int = VERSION
    id: str = Field(pattern=f"^{ID_FORM}$")  # of the copy
    account: Account
    region: RegionName  # where the copy comes from
    made_from: Id
    user: User | None  # who wants it
    segments: Annotated[int, Field(ge=0, le=_MAX_OBJECTS)]  # of its data object


class PeerWithdrawal(Message):
    """``POST /peer/v1/withdraw`` → PeerWithdrawn: the copy is given up; its objects are removed."""

    version: int = VERSION
    id: Id
    account: Account
    region: RegionName


class PeerWithdrawn(Message):
    """``recorded``: the copy is already a backup of the asked region, and stays."""

    recorded: bool


class PeerRecord(Message):
    """``POST /peer/v1/record`` → {}: all objects of the copy are written; it becomes a backup of the asked region.

    The same message may arrive again, when its answer was lost. 422: the manifest or the parent is missing, or the copy
    was abandoned.
    """

    version: int = VERSION
    id: Id
    account: Account
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION)] | None
    source_type: Literal["instance", "ha"]
    source_id: Id
    instance_id: Id | None
    parent_id: Id | None
    datastore: DatastoreType
    backup_version: Series  # of the datastore
    flavor_ram_mb: Small
    volume_gb: Small
    is_automated: bool
    made_from: Id
    made_from_region: RegionName
    size_bytes: Number
    object_bytes: Number
    object_name: ObjectName
    manifest_sha256: Sha256
    incarnation: Incarnation
    checkpoint_lsn: Number | None
    to_lsn: Number
    created: Time
    updated: Time


class PeerPublication(Message):
    """``POST /peer/v1/accounts/{account}/publications/{name}`` → {}: the segments under ``prefix`` become the object.

    409: the name is taken; 422: the segments do not have ``size_bytes`` together.
    """

    prefix: Annotated[str, Field(max_length=1_000)]
    count: Annotated[int, Field(ge=0, le=_MAX_OBJECTS)]
    size_bytes: Number
    segment_size: Annotated[int, Field(ge=1, le=MAX_SEGMENT_SIZE)] = SEGMENT_SIZE


class PeerDigest(Message):
    """The SHA-256 (hexadecimal) of bytes in the asked region's store."""

    sha256: Sha256


class PeerObject(Message):
    """An object, as the store lists it."""

    name: Annotated[str, Field(max_length=1_000)]
    size_bytes: Number
    modified_s: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class PeerListing(Message):
    """Objects, ordered by name."""

    objects: Annotated[list[PeerObject], Field(max_length=_MAX_OBJECTS)]
