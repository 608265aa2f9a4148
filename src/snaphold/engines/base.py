"""The engine as the rest of the project sees it."""

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from snaphold.errors import Permanent


class SourceLocked(Permanent):
    """A client held a table lock for longer than the tool may wait for it."""


class SourceChanged(Permanent):
    """The tool failed because a table was moved or dropped while it was copied; trying again may help."""


Administer = Callable[[str, float], list[tuple[Any, ...]]]


@dataclass(frozen=True, kw_only=True)
class ServerAccess:
    """How a tool reaches a running server on this host. The password stands only in ``defaults_file`` (0600)."""

    data_directory: Path
    socket: Path
    defaults_file: Path  # a [client] section: user, password, socket of the backup account
    uid: int | None  # the system user that the tool runs as; None: ours
    gid: int | None
    scratch: Path  # an empty directory that this user may write to
    messages: Path  # where the tool's messages go: a file of ours, out of this user's reach
    administer: Administer  # runs a statement as the admin account, for so many
    # seconds at most, and returns the rows; raises Unavailable
    administer_as_tool: Administer  # as administer, as the account of the backup tool
    checkpoint: Callable[[float], None]  # writes out what was changed in memory, waiting for so many seconds at most;
    # raises Unavailable, also where the account for it is gone


@dataclass(frozen=True, kw_only=True)
class BackupMetadata:
    """What was found out while a backup was taken. LSNs are InnoDB's log sequence numbers, in bytes."""

    from_lsn: int | None  # None: a full backup
    checkpoint_lsn: int | None  # the checkpoint at the start: where an increment may be taken from
    to_lsn: int  # the checkpoint at the end
    last_lsn: int  # the last position whose changes are in the backup
    unfinished: frozenset[int]  # tablespaces that there were at the start, of which the backup has nothing: tables
    # that were being made or rebuilt all the while
    server_version: str  # "10.11.19"
    tool_version: str
    gtid: str | None  # the position in the binary log, when there is one
    binlog_file: str | None
    binlog_position: int | None


class BackupStream(Protocol):
    """A running backup tool, read like a file. A stream read to its end is a good one."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer's start; 0 at the end.

        Raises ``Permanent`` when the tool failed, was killed, or printed no ``completed OK!``, ``SourceLocked`` when it
        waited for a lock longer than it may, and ``SourceChanged``: at the latest instead of returning 0.
        """

    def kill(self) -> None:
        """Make a ``readinto`` that waits in another thread raise soon. May be called at any time, from any thread."""

    def taken(self, captured: Mapping[str, bytes]) -> BackupMetadata:
        """The facts, once ``readinto`` has returned 0, from the starts of the stream's files that the engine captures.

        Raises ``Permanent`` when one is missing, or what they say does not fit together.
        """


class Engine(Protocol):
    """One kind of database. Every implementation passes tests/contracts/test_engine.py."""

    name: str  # the datastore type: "mariadb"
    captures: Mapping[str, int]  # the stream's files whose first bytes ``taken`` wants, and how many of them; ``*`` and
    # the end of a path stand for all of these

    def take(
        self, server: ServerAccess, *, parent_lsn: int | None, lock_wait_timeout_s: float
    ) -> AbstractContextManager[BackupStream]:
        """Start the backup tool; leaving the context kills whatever is left of it.

        Raises ``Permanent`` when the versions of tool and server do not fit, or the server cannot be reached.
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
        """Make an extracted full backup a data directory that a server can start on.

        The tool's messages go beside the directory. Raises ``Permanent``; ``Superseded`` when ``stop`` was set.
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
        """Bring a prepared directory to the moment of an extracted increment, whose files are used up by that.

        The increment may have been taken from any position that the directory's backup has reached. Raises as
        ``prepare`` does.
        """

    def imported(self, server: ServerAccess) -> Mapping[Path, int]:
        """Files with pages that came from elsewhere and stand in no log, each with its tablespace's id.

        An increment does not hold such pages: who takes one must know whether its parent did.
        """

    def lost_tables(self, server: ServerAccess, paths: Collection[str], captured: Mapping[str, bytes]) -> list[str]:
        """The tables that an increment with these files defines, but has nothing of.

        Their files were exchanged while it was taken. Those that have no file of their own are not lost: they lie in
        the system's, or their file was given away (``DISCARD TABLESPACE``). Raises ``Unavailable``.
        """

    def cut_tables(self, captured: Mapping[str, bytes], unfinished: Collection[int]) -> list[str]:
        """The tables of which an increment has only what was written since its parent began.

        ``unfinished``: of the parent (``BackupMetadata``), which has nothing of them.
        """
