"""What an agent and the API say to each other (``/agent/v1``), as JSON over HTTP with the host's own bearer token.

    POST /agent/v1/hello                    Hello    → Welcome      once an agent process starts: a new session
    POST /agent/v1/heartbeat                Heartbeat→ Desired      every ``renew_s`` of Welcome
    POST /agent/v1/claim                    Claim    → Work         long poll: a task, a question, or nothing
    POST /agent/v1/tasks/{id}/progress      Progress → {}           renews the lease
    POST /agent/v1/tasks/{id}/report        Report   → {}           ends the task; compare-and-set by attempt
    POST /agent/v1/questions/{id}/answer    Answer   → {}

Every message carries the agent's ``session``: what an earlier process of the same host had claimed is ended at
``hello``. 409 to ``progress`` or ``report`` means *overtaken*: the attempt must stop and remove what it wrote.
401 means that the token is not (or no longer) good. Only ids, names, numbers and password hashes travel; never a
password, never a caller's token.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from snaphold.model import ID_FORM, ProofLevel, ProofStatus

VERSION = 1
SEGMENT_BYTES = 64 << 20  # every segment of an object but the last; no body that a peer sends is larger
Number = Annotated[int, Field(ge=0, lt=1 << 63)]  # as large as the record can keep


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
    VERIFY = "verify"  # the proof is unknown


class QuestionKind(StrEnum):
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


class Datastore(Message):
    """A database engine and version that a host can really run."""

    type: str  # "mariadb"
    version: str  # "10.11"
    full_version: str  # "10.11.19"


class InstanceState(Message):
    """One instance as its host sees it."""

    id: str
    running: bool
    used_bytes: Number | None = None
    incarnation: str | None = Field(default=None, max_length=64)  # this life of its data directory
    max_lsn: Number | None = None  # up to which its redo log is on the disk
    fault: str | None = None  # why it does not run, in plain words


class Hello(Message):
    """An agent process has started."""

    protocol: Number = VERSION
    session: str
    datastores: list[Datastore]
    instances: list[InstanceState]
    shared_system_user: bool  # True: not root, every server runs as the same system user
    accepts_shared: bool  # whether a second account's instance may be put on such a host


class Heartbeat(Message):
    """The host is there, and this is how its instances are."""

    session: str
    instances: list[InstanceState]


class Desired(Message):
    """What the record wants of each instance that the agent named (unknown ones are left out, and left alone)."""

    instances: dict[str, Literal["running", "stopped", "absent"]]


class Welcome(Desired):
    """The answer to Hello."""

    host_id: str
    region: str
    lease_s: float
    renew_s: float


class Claim(Message):
    """Give me something to do; wait up to ``wait_s`` for it."""

    session: str
    wait_s: float = Field(ge=0, le=60)
    accept_tasks: bool = True  # False: questions only, every task slot is taken
    at_work: dict[str, Number] = {}  # attempts that go on, by task: of those given up it is told at once


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
    parent_named: bool = True  # False: the record chose the parent, and a full may be taken instead
    max_lsn: int | None = None  # the highest that the record was told: a lower one is another incarnation
    ended_incarnation: str | None = None  # is over, whatever the data directory says
    created: str  # RFC 3339 with microseconds
    is_automated: bool = False
    volume_gb: int
    flavor_ram_mb: int
    datastore: str
    version: str
    version_id: str
    verify: ProofLevel | None = None  # the proof that the backup must pass before it is COMPLETED


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


class Question(Message):
    """Something a caller waits for; an answer after ``deadline_s`` is not read any more."""

    id: str
    kind: QuestionKind
    instance_id: str
    deadline_s: float
    payload: dict[str, Any]


class Work(Message):
    """The answer to Claim; nothing in it when the wait was in vain."""

    task: Task | None = None
    question: Question | None = None
    given_up: list[str] = []  # tasks of ``at_work`` whose attempts must stop, as after 409


class Progress(Message):
    """The attempt goes on. Every field but the first two is optional, and kept when it is None."""

    session: str
    attempt: Number
    step: str | None = None  # the step's name, for people
    size_bytes: Number | None = None  # what the source's data used when it was measured (backup)
    done_bytes: Number | None = None
    expected_bytes: Number | None = None
    bytes_per_s: Number | None = None


class ProofResult(Message):
    """What a proof has shown."""

    status: ProofStatus
    level: ProofLevel
    at: str  # when it ended, RFC 3339 with seconds
    seconds: float
    reason: str | None = None  # why it did not pass
    mend_from: str | None = None  # the region that has whole what is damaged, as far as its record says


class BackupResult(Message):
    """What the record keeps of a completed backup."""

    manifest_sha256: str
    parent_id: str | None = None  # what it was really taken from: None where a full was taken instead of an increment
    size_bytes: Number
    object_bytes: Number
    object_name: str  # "<id>.xbstream.gz" or ".zst"
    incarnation: str
    from_lsn: Number | None
    checkpoint_lsn: Number | None  # the start checkpoint, on which an increment may be taken
    to_lsn: Number
    updated: str  # the manifest's own time, RFC 3339 with seconds
    proof: ProofResult | None = None  # passed, where one was asked for


class InstanceResult(Message):
    """Where a created or restored instance can be reached."""

    address: str
    port: Number
    used_bytes: Number
    full_version: str


class Report(Message):
    """The attempt has ended. ``reason`` is for people and set exactly when ``ok`` is False."""

    session: str
    attempt: Number
    ok: bool
    reason: str | None = None
    backup: BackupResult | None = None
    instance: InstanceResult | None = None
    proof: ProofResult | None = None  # VERIFY


class Answer(Message):
    """The answer to a question. ``error`` is a class name of snaphold.errors.Refused's children, or "Unavailable"."""

    session: str
    ok: bool
    payload: dict[str, Any] = {}
    error: str | None = None
    message: str | None = None


class PeerQuestion(Message):
    """``POST /peer/v1/copies``: which backups of the asking region are there already.

    ``wanted``: ids in the asking region, each with the id in the asked region that it is itself a copy of, or null.
    Where a copy is to be made ``user`` is who wants it; 403: may not there.
    """

    version: int = VERSION
    account: str
    region: str  # the asking one
    wanted: dict[str, str | None]
    user: str | None = None


class PeerCopy(Message):
    """A backup of the asking region as the asked one has it."""

    id: str
    manifest_sha256: str


class PeerAnswer(Message):
    """Who the asked region is, and what it has, by the ids of the asking one.

    ``full``: why no more backups of the account may come, where they may not.
    """

    deployment: str
    copies: dict[str, PeerCopy]
    full: str | None = None


class PeerAnnouncement(Message):
    """``POST /peer/v1/announce`` → {}: the objects of this copy will come; until it is recorded they may be written.

    It is said again at every try. 403: the user may not; 413: the account is at its limit; 422: it was given up there.
    """

    version: int = VERSION
    id: str = Field(pattern=f"^{ID_FORM}$")  # of the copy
    account: str
    region: str  # the one that it comes from
    made_from: str
    user: str | None  # who wants it
    segments: Number  # that its data object has


class PeerWithdrawal(Message):
    """``POST /peer/v1/withdraw`` → PeerWithdrawn: no more objects of this copy will come; what came is removed."""

    version: int = VERSION
    id: str
    account: str
    region: str


class PeerWithdrawn(Message):
    """``recorded``: the copy is a backup of that region already, and stays."""

    recorded: bool


class PeerRecord(Message):
    """``POST /peer/v1/record`` → {}: all objects of this copy are there; from now on it is a backup of that region.

    The same may come again, where its answer was lost. 422: its manifest is not there, its parent is not any more, or
    the copy was given up there.
    """

    version: int = VERSION
    id: str
    account: str
    name: str
    description: str | None
    source_type: str
    source_id: str
    instance_id: str | None
    parent_id: str | None
    datastore: str
    backup_version: str  # of the datastore
    flavor_ram_mb: int
    volume_gb: int
    is_automated: bool
    made_from: str
    made_from_region: str
    size_bytes: int
    object_bytes: int
    object_name: str
    manifest_sha256: str
    incarnation: str
    checkpoint_lsn: int | None
    to_lsn: int
    created: str
    updated: str


class PeerPublication(Message):
    """``POST /peer/v1/accounts/{account}/publications/{name}`` → {}: the segments under ``prefix`` become the object.

    409: there is one of that name; 422: they do not add up to it.
    """

    prefix: str
    count: Number
    size_bytes: Number


class PeerDigest(Message):
    """The SHA-256 (hexadecimal) of bytes that lie in the asked region."""

    sha256: str


class PeerObject(Message):
    """One object as its store lists it."""

    name: str
    size_bytes: Number
    modified_s: float


class PeerListing(Message):
    """Objects, by name."""

    objects: list[PeerObject]
