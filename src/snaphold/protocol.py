"""What an agent and the API say to each other (``/agent/v1``), as JSON over HTTP with the host's own bearer token.

    POST /agent/v1/hello                    Hello    → Welcome      once an agent process starts: a new session
    POST /agent/v1/heartbeat                Heartbeat→ Desired      every ``renew_s`` of Welcome
    POST /agent/v1/claim                    Claim    → Work         long poll: a task, a question, or nothing
    POST /agent/v1/tasks/{id}/progress      Progress → {}           renews the lease
    POST /agent/v1/tasks/{id}/report        Report   → {}           ends the task; compare-and-set by attempt
    POST /agent/v1/questions/{id}/answer    Answer   → {}

Every message carries the agent's ``session``: what an earlier process of the same host had claimed is ended at
``hello``. 409 to ``progress`` or ``report`` means *superseded*: the attempt must stop and remove what it wrote.
401 means that the token is not (or no longer) good. Only ids, names, numbers and password hashes travel; never a
password, never a caller's token.

Neither side believes the other: every text has a form or a length, every list a number of entries, every number a range
that the catalog can keep. A message that does not fit is refused as a whole (400); nothing of it is written.
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
MAX_REASON: Final = 4_000  # characters of a reason; what is longer is cut
MAX_FAULT: Final = 300  # the same of an instance's fault: a heartbeat may have one for each of 10,000 instances
MAX_DESCRIPTION: Final = 65_535  # characters of a backup's description
_MAX_AT_WORK: Final = 1_000
_MAX_WANTED: Final = 1_000
_MAX_NAMES: Final = 100_000  # of databases and users of an instance
_MAX_OBJECTS: Final = 1_000_000  # of one backup


def _shortened(text: object, *, most: int = MAX_REASON) -> object:
    """Cut after ``most`` characters, and put a space for each that cannot be printed, but for the ends of lines."""
    if not isinstance(text, str):
        return text
    text = text[:most]
    if text.isprintable():  # nearly all are; a host may send thousands at once
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


Number = Annotated[int, Field(ge=0, lt=1 << 63)]  # as large as the catalog can keep
Small = Annotated[int, Field(ge=0, lt=1 << 31)]  # MB, GB, numbers of attempts
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Reason = Annotated[str, BeforeValidator(_shortened)]  # words for people
Fault = Annotated[str, BeforeValidator(partial(_shortened, most=MAX_FAULT))]  # words for people, of an instance
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
NameTold = Annotated[str, Field(max_length=255)]  # of something in a server
Port = Annotated[int, Field(ge=1, le=65_535)]
Address = Annotated[str, Field(pattern=r"^[0-9A-Fa-f:.]{2,45}$"), AfterValidator(_checked_address)]  # of IP, no name
Network = Annotated[str, Field(pattern=r"^[0-9A-Fa-f:./]{2,50}$"), AfterValidator(_checked_network)]


class Message(BaseModel):
    """A message: immutable, and deaf to keys that a newer peer may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Nothing(Message):
    """The answer ``{}``."""


class TaskKind(StrEnum):
    """What a host can be given to do. The comment says what a silence of the host means."""

    CREATE = "create"  # ERROR
    RESTORE = "restore"  # ERROR
    BACKUP = "backup"  # FAILED, its bytes swept
    RESTART = "restart"  # taken up again when the host is back, as are the next three
    STOP = "stop"
    START = "start"
    RESIZE = "resize"
    DELETE = "delete"  # taken up again when the host is back
    CONSOLIDATE = "consolidate"  # FAILED, its bytes swept
    VERIFY = "verify"  # the verification is unknown


class HostCallKind(StrEnum):
    """What a host is asked while a caller waits."""

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
    """A database that clients made."""

    name: NameTold
    character_set: NameTold | None = None
    collate: NameTold | None = None


class DatabasesTold(Message):
    """The answer to LIST_DATABASES."""

    databases: Annotated[list[DatabaseTold], Field(max_length=_MAX_NAMES)]


class RightTold(Message):
    """A database that a user may use."""

    name: NameTold


class UserTold(Message):
    """A user that clients made."""

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
    """A database engine and version that a host can really run."""

    type: DatastoreType  # "mariadb"
    version: Series
    full_version: FullVersion

    @model_validator(mode="after")
    def _is_of_its_series(self) -> Self:
        if not self.full_version.startswith(f"{self.version}."):
            raise ValueError("full_version must be one of version")
        return self


class InstanceState(Message):
    """One instance as its host sees it."""

    id: Id
    running: bool
    used_bytes: Number | None = None
    incarnation: Incarnation | None = None  # this life of its data directory
    max_lsn: Number | None = None  # up to which its redo log is on the disk
    fault: Fault | None = None  # why it does not run, in plain words


TakenAddresses = Annotated[list[Address], Field(max_length=MAX_TAKEN)]  # which no new instance can get
InstanceStates = Annotated[list[InstanceState], Field(max_length=MAX_INSTANCES)]


class Hello(Message):
    """An agent process has started."""

    protocol: Number = VERSION
    session: Session
    datastores: Annotated[list[Datastore], Field(max_length=32)]
    instances: InstanceStates
    shared_system_user: bool  # True: not root, every server runs as the same system user
    accepts_shared: bool  # whether a second account's instance may be put on such a host
    memory_mb: Small | None = None  # all that its servers can have
    networks: Annotated[list[Network], Field(max_length=64)] = []  # of which each instance gets an address
    instance_port: Port | None = None
    taken: TakenAddresses = []


class Heartbeat(Message):
    """The host is there, and this is how its instances are."""

    session: Session
    instances: InstanceStates
    taken: TakenAddresses = []


class Desired(Message):
    """What the catalog wants of each instance that the agent named (unknown ones are left out, and left alone)."""

    instances: dict[str, Literal["running", "stopped", "absent"]]


class Welcome(Desired):
    """The answer to Hello."""

    host_id: str
    region: str
    lease_s: float
    renew_s: float


class Claim(Message):
    """Give me something to do; wait up to ``wait_s`` for it."""

    session: Session
    wait_s: float = Field(ge=0, le=60)
    accept_tasks: bool = True  # False: questions only, every task slot is taken
    free_slots: Small | None = None  # how many tasks more it can work on
    at_work: Annotated[dict[Id, Number], Field(max_length=_MAX_AT_WORK)] = {}  # attempts that go on, by task: of
    # those abandoned it is told at once


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
    """What is to be different about a user; None: stays as it is."""

    name: str
    host: str = "%"
    new_name: str | None = None
    new_host: str | None = None
    password_hash: str | None = None


class Memory(Message):
    """What a server is to start with, and what it gets again where it does not start with that; the same in a restart.

    In MB.
    """

    ram_mb: int
    former_ram_mb: int


class InstanceSpec(Message):
    """Everything a host must know of an instance to build its server."""

    id: str
    account: str
    name: str
    datastore: str  # type
    version: str
    ram_mb: int
    volume_gb: int
    address: Address | None = None  # chosen for it; None: the host chooses
    databases: list[DatabaseSpec] = []
    users: list[UserSpec] = []


class ChainLink(Message):
    """One backup of a chain. The manifest is trusted by its hash only."""

    backup_id: str
    account: str
    manifest_sha256: str


class BackupSpec(Message):
    """Everything a host must know to take a backup; most of it goes into the manifest unread."""

    id: str
    account: str
    instance_id: str
    deployment: str  # marks the prefix of the segments: whose they are
    name: str
    description: str | None
    source_type: Literal["instance", "ha"] = "instance"
    source_id: str
    parent_id: str | None = None
    parent_named: bool = True  # False: the catalog chose the parent, and a full may be taken instead
    max_lsn: int | None = None  # the highest that the catalog was told: a lower one is another incarnation
    ended_incarnation: str | None = None  # is over, whatever the data directory says
    created: str  # RFC 3339 with microseconds
    is_automated: bool = False
    volume_gb: int
    flavor_ram_mb: int
    datastore: str
    version: str
    version_id: str
    verify: VerificationLevel | None = None  # the verification that the backup must pass before it is COMPLETED


class Task(Message):
    """A claimed piece of work. Exactly the fields of its kind are set.

    ``chain``: the full backup first, each increment behind its parent; it ends with the backup that is to be restored,
    verified or consolidated, or with the parent of the one that is to be taken.
    """

    id: str
    kind: TaskKind
    attempt: int
    instance_id: str | None = None  # None: the work is no instance's (CONSOLIDATE, VERIFY)
    lease_s: float
    instance: InstanceSpec | None = None  # CREATE, RESTORE
    chain: list[ChainLink] = []  # RESTORE, VERIFY, CONSOLIDATE; BACKUP of an increment
    backup: BackupSpec | None = None  # BACKUP, CONSOLIDATE
    memory: Memory | None = None  # RESIZE, RESTART, START


class HostCall(Message):
    """Something a caller waits for; an answer after ``deadline_s`` is not read any more."""

    id: str
    kind: HostCallKind
    instance_id: str
    deadline_s: float
    payload: dict[str, Any]


class Work(Message):
    """The answer to Claim; nothing in it when the wait was in vain."""

    task: Task | None = None
    question: HostCall | None = None
    given_up: list[str] = []  # tasks of ``at_work`` whose attempts must stop, as after 409


class Progress(Message):
    """The attempt goes on. Every field but the first two is optional, and kept when it is None."""

    session: Session
    attempt: Small
    step: Annotated[str, Field(pattern=r"^[ -~]{1,64}$")] | None = None  # the step's name, for people
    size_bytes: Number | None = None  # what the source's data used when it was measured (backup)
    done_bytes: Number | None = None
    expected_bytes: Number | None = None
    bytes_per_s: Number | None = None


class VerificationResult(Message):
    """What a verification has shown."""

    status: VerificationStatus
    level: VerificationLevel
    at: Time  # when it ended, with seconds
    seconds: Seconds
    reason: Reason | None = None  # why it did not pass
    mend_from: RegionName | None = None  # the region that has whole what is damaged, as far as its record says


class BackupResult(Message):
    """What the catalog keeps of a completed backup."""

    manifest_sha256: Sha256
    parent_id: Id | None = None  # what it was really taken from: None where a full was taken instead of an increment
    size_bytes: Number
    object_bytes: Number
    object_name: ObjectName
    incarnation: Incarnation
    from_lsn: Number | None
    checkpoint_lsn: Number | None  # the start checkpoint, on which an increment may be taken
    to_lsn: Number
    updated: Time  # the manifest's own, with seconds
    proof: VerificationResult | None = None  # passed, where one was asked for


class InstanceResult(Message):
    """Where a created or restored instance can be reached."""

    address: Address
    port: Port
    used_bytes: Number
    full_version: FullVersion


class Report(Message):
    """The attempt has ended. ``reason`` is for people and set exactly when ``ok`` is False."""

    session: Session
    attempt: Small
    ok: bool
    reason: Reason | None = None
    backup: BackupResult | None = None
    instance: InstanceResult | None = None
    proof: VerificationResult | None = None  # VERIFY


class HostCallAnswer(Message):
    """The answer to a question. ``error`` is a class name of snaphold.errors.Refused's children, or "Unavailable"."""

    session: Session
    ok: bool
    payload: dict[str, Any] = {}
    error: Annotated[str, Field(max_length=32)] | None = None
    message: Reason | None = None


class PeerQuery(Message):
    """``POST /peer/v1/copies``: which backups of the asking region are there already.

    ``wanted``: ids in the asking region, each with the id in the asked region that it is itself a copy of, or null.
    Where a copy is to be made ``user`` is who wants it; 403: may not there.
    """

    version: int = VERSION
    account: Account
    region: RegionName  # the asking one
    wanted: Annotated[dict[Id, Id | None], Field(max_length=_MAX_WANTED)]
    user: User | None = None


class PeerCopy(Message):
    """A backup of the asking region as the asked one has it."""

    id: Id
    manifest_sha256: Sha256


class PeerAnswer(Message):
    """Who the asked region is, and what it has, by the ids of the asking one.

    ``full``: why no more backups of the account may come, where they may not.
    """

    deployment: Id
    copies: Annotated[dict[Id, PeerCopy], Field(max_length=_MAX_WANTED)]
    full: Reason | None = None


class PeerAnnouncement(Message):
    """``POST /peer/v1/announce`` → {}: the objects of this copy will come; until it is recorded they may be written.

    It is said again at every try. 403: the user may not; 413: the account is at its limit; 422: it was abandoned there.
    """

    version: int = VERSION
    id: str = Field(pattern=f"^{ID_FORM}$")  # of the copy
    account: Account
    region: RegionName  # the one that it comes from
    made_from: Id
    user: User | None  # who wants it
    segments: Annotated[int, Field(ge=0, le=_MAX_OBJECTS)]  # that its data object has


class PeerWithdrawal(Message):
    """``POST /peer/v1/withdraw`` → PeerWithdrawn: no more objects of this copy will come; what came is removed."""

    version: int = VERSION
    id: Id
    account: Account
    region: RegionName


class PeerWithdrawn(Message):
    """``recorded``: the copy is a backup of that region already, and stays."""

    recorded: bool


class PeerRecord(Message):
    """``POST /peer/v1/record`` → {}: all objects of this copy are there; from now on it is a backup of that region.

    The same may come again, where its answer was lost. 422: its manifest is not there, its parent is not any more, or
    the copy was abandoned there.
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

    409: there is one of that name; 422: they do not add up to it.
    """

    prefix: Annotated[str, Field(max_length=1_000)]
    count: Annotated[int, Field(ge=0, le=_MAX_OBJECTS)]
    size_bytes: Number
    segment_size: Annotated[int, Field(ge=1, le=MAX_SEGMENT_SIZE)] = SEGMENT_SIZE


class PeerDigest(Message):
    """The SHA-256 (hexadecimal) of bytes that lie in the asked region."""

    sha256: Sha256


class PeerObject(Message):
    """One object as its store lists it."""

    name: Annotated[str, Field(max_length=1_000)]
    size_bytes: Number
    modified_s: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class PeerListing(Message):
    """Objects, by name."""

    objects: Annotated[list[PeerObject], Field(max_length=_MAX_OBJECTS)]
