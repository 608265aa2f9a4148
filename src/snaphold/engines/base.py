"""The interface between the project and a database engine. ``host`` and ``agent`` know engines only through it."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from snaphold.disk import Owner
from snaphold.engines.files import ServerFiles
from snaphold.errors import Permanent, Unavailable
from snaphold.formats.verification_record import Checksums
from snaphold.protocol import DatabaseSpec, Datastore, HostCallKind, UserSpec
from snaphold.sandbox import Sandbox


class SourceLocked(Permanent):
    """A client held a table lock for longer than the backup tool may wait for it."""


class SourceChanged(Permanent):
    """The tool failed because a table was moved or dropped while it was being copied. A retry may succeed."""


class Denied(Unavailable):
    """The server rejects the host's internal account: a client has changed or removed it."""


class NoIncrement(Permanent):
    """An increment cannot be taken, or would be incomplete; a full backup of the same server may succeed."""


Administer = Callable[[str, float], list[tuple[Any, ...]]]


@dataclass(frozen=True, kw_only=True)
class ServerAccess:
    """How a backup tool reaches a running server on this host. Only ``defaults_file`` (0600) holds the password."""

    data_directory: Path
    socket: Path
    defaults_file: Path  # user, password and socket of the backup account, in the tool's own format
    uid: int | None  # the system user that the tool runs as; None: this process's user
    gid: int | None
    scratch: Path  # an empty directory that this user may write to
    messages: Path  # the tool's messages: a file that only this process's user can change
    administer: Administer  # runs a statement as the admin account, within so many seconds, and returns its rows;
    # raises Unavailable
    administer_as_tool: Administer  # as administer, but as the account of the backup tool
    checkpoint: Callable[[float], None]  # has the server write its changed pages, within so many seconds; raises
    # Unavailable, also when the account that it needs no longer exists


@dataclass(frozen=True, kw_only=True)
class BackupMetadata:
    """What the engine learned while it took a backup. LSNs are log sequence numbers, in bytes."""

    from_lsn: int | None  # None: a full backup
    checkpoint_lsn: int | None  # the checkpoint at the start: an increment may be taken from here
    to_lsn: int  # the checkpoint at the end
    last_lsn: int  # the last position whose changes are in the backup
    unfinished: frozenset[int]  # tablespaces that existed at the start but are missing from the backup: their tables
    # were being created or rebuilt the whole time
    server_version: str  # "10.11.19"
    tool_version: str
    gtid: str | None  # the position in the binary log, if there is one
    binlog_file: str | None
    binlog_position: int | None


class BackupStream(Protocol):
    """A running backup tool that is read like a file. A stream that was read to its end is complete."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of the buffer and return the number of bytes; 0 at the end.

        Raises ``Permanent`` when the tool failed, was killed or did not report success, ``SourceLocked`` when it waited
        too long for a lock, and ``SourceChanged``: at the latest in place of returning 0.
        """

    def kill(self) -> None:
        """Make a ``readinto`` that is blocked in another thread raise soon. Any thread may call this at any time."""

    def taken(self, captured: Mapping[str, bytes]) -> BackupMetadata:
        """Return the metadata, once ``readinto`` has returned 0, from the bytes that ``Engine.captures`` asked for.

        Raises ``Permanent`` when a file is missing or the values contradict each other; ``NoIncrement`` when the
        positions of an increment do not follow its parent's.
        """


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What the host decides about a server that it starts."""

    files: ServerFiles
    owner: Owner | None  # the system user that the server runs as; None: this process's user
    memory_bytes: int  # all that the server may use
    address: str | None  # None: the server gets no network
    port: int
    outgoing_ports: Sequence[int]  # TCP ports that the server may connect to


@dataclass(frozen=True, kw_only=True)
class ServerCommand:
    """How a server is started. Its working directory is the data directory."""

    argv: Sequence[str | Path]
    environment: Mapping[str, str]  # the whole environment
    sandbox: Sandbox


class BackupTool(Protocol):
    """Takes backups of a running server and turns their files back into a data directory."""

    captures: Mapping[str, int]  # the files of the stream whose first bytes the engine needs, and how many bytes of
    # each; ``*`` before an extension stands for every file with this extension

    def take(
        self, server: ServerAccess, *, parent_lsn: int | None, lock_wait_timeout_s: float
    ) -> AbstractContextManager[BackupStream]:
        """Start the backup tool. Leaving the context kills what is left of it.

        Raises ``Permanent`` when tool and server are of different versions, or the server cannot be reached;
        ``NoIncrement`` when only an increment is impossible.
        """

    def prepare(
        self,
        directory: Path,
        *,
        uid: int | None,
        gid: int | None,
        memory_bytes: int,
        stop: threading.Event | None = None,
    ) -> None:
        """Turn an extracted full backup into a data directory that a server can start on.

        The tool's messages go to a file beside the directory. Raises ``Permanent``; ``Superseded`` when ``stop`` is
        set.
        """

    def apply(
        self,
        directory: Path,
        increment: Path,
        *,
        uid: int | None,
        gid: int | None,
        memory_bytes: int,
        stop: threading.Event | None = None,
    ) -> None:
        """Bring a prepared directory to the state of an extracted increment. This consumes the increment's files.

        The increment may start at any position that the directory's backup has reached. Raises as ``prepare`` does.
        """

    def imported(self, server: ServerAccess) -> Mapping[Path, int]:
        """Return the files with pages that were imported and are in no log, and the tablespace id of each.

        An increment does not contain such pages, so its parent must.
        """

    def lost_tables(self, server: ServerAccess, paths: Collection[str], captured: Mapping[str, bytes]) -> list[str]:
        """Return the tables that an increment with these files defines but has no data of.

        Their files were replaced while the increment was taken. Tables without a file of their own are not lost: their
        data is in the system tablespace, or was discarded (``DISCARD TABLESPACE``). Raises ``Unavailable``.
        """

    def cut_tables(self, captured: Mapping[str, bytes], unfinished: Collection[int]) -> list[str]:
        """Return the tables of which an increment has only the changes since the start of its parent.

        ``unfinished``: the parent's ``BackupMetadata.unfinished``, the tablespaces that the parent does not contain.
        """


class ServerProgram(Protocol):
    """Starts a server and explains how it is doing. The host starts, finds and stops the process itself."""

    identity_file: str  # a file of the data directory that a server never replaces while the data stays the same
    tool_files: frozenset[str]  # files that the backup tool leaves in a data directory and a server does not need

    @property
    def socket_names(self) -> str | None:
        """LISTEN_FDNAMES of the two sockets that a server can inherit (host/listening.py); None: it opens its own."""

    def serves(self, argv: Sequence[bytes], data: Path) -> bool:
        """Whether this is the command line of a server on this data directory."""

    def template(self, state_dir: Path) -> Path:
        """Return the empty data directory that new instances start from, below ``state_dir``; create it if necessary.

        Raises ``Permanent``.
        """

    def cache_bytes(self, memory_bytes: int) -> int:
        """Return the part of a server's memory that caches pages. Preparing a backup may use as much."""

    def write_start_files(self, config: ServerConfig) -> None:
        """Write the files that the next start needs: keys, and internal accounts with new passwords. Raises OSError."""

    def command(self, config: ServerConfig) -> ServerCommand:
        """Return how the server is started."""

    def remove_start_files(self, files: ServerFiles) -> None:
        """Remove the files that only the start needed."""

    def ping(self, files: ServerFiles, timeout_s: float) -> None:
        """Return once the server has answered a query as the admin account. Raises ``Denied``, ``Unavailable``."""

    def address_taken(self, messages: str) -> bool:
        """Whether a server that logged this ended because another process listens on its address."""

    def last_errors(self, files: ServerFiles) -> str | None:
        """Return the last errors that the server logged, in one line. They are for the host's log only."""

    def explain(self, messages: str) -> str:
        """Return the cause that these messages of a server name, in words for the owner of the database."""


class Administration(Protocol):
    """Connects to a running server with the host's internal accounts."""

    def administer(self, files: ServerFiles, *, as_tool: bool = False) -> Administer:
        """Return a function that runs statements as the admin account, or as the account of the backup tool."""

    def checkpoint(self, files: ServerFiles, timeout_s: float) -> None:
        """Have the server write its changed pages. Raises ``Unavailable``."""

    def lsns(self, files: ServerFiles, timeout_s: float) -> tuple[int, int]:
        """Return the server's LSN, and the LSN up to which its log is on disk, the least that survives a crash.

        Raises ``Unavailable``.
        """

    def call(
        self, files: ServerFiles, kind: HostCallKind, payload: Mapping[str, Any], *, timeout_s: float
    ) -> dict[str, Any]:
        """Answer a host call about databases, users or root. Raises ``Refused`` (a child of it) and ``Unavailable``."""

    def add_missing(
        self, files: ServerFiles, databases: Sequence[DatabaseSpec], users: Sequence[UserSpec], *, timeout_s: float
    ) -> None:
        """Create those databases and users that do not exist. Raises as ``call`` does."""

    def check_tables(
        self,
        administer: Administer,
        check: Callable[[], None],
        *,
        known: Collection[str] = (),
        source: Administer | None = None,
    ) -> Checksums:
        """Have a restored server check every table, and return the checksums of the tables that clients made.

        ``check`` is called before each table and may raise. ``known``: tables ("database.table") that an earlier
        verification of the same backup found unsound in the source. ``source``: runs statements in the server that the
        backup was just taken from; only asked about tables that are not sound in the restored server.

        Raises ``Damaged`` when a table is not sound although the source's was, and ``Unavailable``.
        """

    def compare_checksums(self, backup_id: str, first: Checksums | None, found: Checksums) -> Checksums:
        """Compare with the first verification by a restore, and return the checksums to keep: those of the first.

        Only servers of the same series are compared, and only tables that both verifications checked in the same way.
        Raises ``Damaged``: the message names the table and what was compared.
        """


class Engine(BackupTool, ServerProgram, Administration, Protocol):
    """One installation of one kind of database. Every implementation passes tests/contracts/test_engine.py."""

    @property
    def datastore(self) -> Datastore:
        """The type, series and full version that instances of this engine have."""

    @property
    def title(self) -> str:
        """The name and version for people: "MariaDB 10.11.19"."""

    @property
    def private_directories(self) -> list[Path]:
        """Directories of the installation that no tenant may learn of."""


class Engines:
    """The engines of one host. There may be several kinds of databases, and several series of each."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._engines = {(engine.datastore.type, engine.datastore.version): engine for engine in engines}

    def __iter__(self) -> Iterator[Engine]:
        """Every engine, by type and series."""
        return iter([self._engines[key] for key in sorted(self._engines)])

    def of(self, datastore: str, version: str) -> Engine:
        """Return the engine for a datastore type and a series ("10.11") or a full version ("10.11.19") of it.

        Raises ``Permanent`` when this host does not have it.
        """
        series = ".".join(version.split(".")[:2])
        try:
            return self._engines[datastore, series]
        except KeyError:
            offered = ", ".join(f"{of} {version}" for of, version in sorted(self._engines)) or "no database"
            raise Permanent(f"this host runs {offered}, not {datastore} {series}") from None

    def serves(self, argv: Sequence[bytes], data: Path) -> bool:
        """Whether this is the command line of a server of any engine on this data directory."""
        return any(engine.serves(argv, data) for engine in self)
