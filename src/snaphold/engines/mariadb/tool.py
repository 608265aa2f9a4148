"""Takes backups with mariabackup, which writes an xbstream, and prepares them.

This module and the reader of the stream check what the tool does not notice. An exit status of 0 is not enough: a
stream may be cut between two chunks, and with a wrong LSN or a server of another version the tool writes a backup that
only looks complete. Source: MariaDB's documentation of mariabackup and BACKUP STAGE; the rest was found by experiment.
"""

import os
import re
import resource
import stat
import struct
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from snaphold.engines.base import BackupMetadata, NoIncrement, ServerAccess, SourceChanged, SourceLocked
from snaphold.engines.mariadb.holes import page_size_of, punch_holes
from snaphold.engines.mariadb.installation import Installation
from snaphold.engines.mariadb.keys import KeyManagement
from snaphold.engines.mariadb.options import KEY_PLUGIN, data_files, innodb_options, key_plugin
from snaphold.engines.mariadb.words import explained
from snaphold.errors import Permanent, SnapholdError, Unavailable
from snaphold.formats.delta import MAX_META, Meta
from snaphold.formats.xbstream import CHECKPOINT_FILES, MAX_PART
from snaphold.model import is_engine_file
from snaphold.sandbox import Sandbox
from snaphold.stream.process import MANY_FILES, Tool, ToolStream, run_tool

PREPARE_TIMEOUT_S: Final = 24 * 3600.0  # enough for a large redo log on a slow disk
LOG_COPY_INTERVAL_MS: Final = 10  # for the redo log; hardly any write of the source takes longer
WATCH_INTERVAL_S: Final = 0.5
ANSWER_TIMEOUT_S: Final = 5.0
CHECKPOINT_TIMEOUT_S: Final = 5.0
_FILES_TIMEOUT_S: Final = 60.0
_YOUNG: Final = (
    1024  # bytes of log since the last checkpoint: the checkpoint's own records and changes of a few dozen pages
)
_QUIET_S: Final = 0.1  # without a change; writers that wait for a slow disk pause for less
_QUIET_WAIT_S: Final = 1.0
_QUIET_POLL_S: Final = 0.02
_VERDICT: Final = "completed OK!"
_CHECKPOINTS: Final = CHECKPOINT_FILES
_INFO: Final = ("xtrabackup_info", "mariadb_backup_info")
_OPTIONS: Final = "backup-my.cnf"
_KEYS: Final = "prepare.keys"
_PREPARE_OPTIONS: Final = "prepare.cnf"
_LINK_OF_TABLE: Final = ".isl"
_REDO_LOG: Final = "ib_logfile0"
_REDO_FORMATS: Final = (b"Phys", b"\xf0\x9f\x97\x9d")  # since 10.8; the second one is encrypted
_CHECKPOINT_BLOCKS: Final = (0x1000, 0x2000)  # offsets of the two checkpoints in a redo log of 10.8 and later
_REDO_HEADER: Final = 0x3000  # bytes before the records
_META: Final = ".meta"
_DATA_ENDS: Final = (".ibd.meta", ".new.meta", ".new", ".ibd")  # suffixes of a table's files in an increment
_TABLE_DEFINITION: Final = b"\xfe\x01"  # the start of a table's .frm file; that of a view is text
_OF_INNODB: Final = b"\x0c"  # the number of the storage engine in it
_FIRST_PAGES: Final = 4  # of a file; the first three always exist
_FIRST_BYTES: Final = _FIRST_PAGES * 65536
_PAGE_LSN: Final = slice(16, 24)  # in a page
_SPACE_ID: Final = 34  # in the first page
_FIRST_ID: Final = slice(_SPACE_ID, _SPACE_ID + 4)
_LONGEST_NAMES: Final = 506  # bytes of a directory's and a file's name together: one more crashes 10.11.19
_LONGEST_IN_INCREMENT: Final = 504  # the same for an increment
_ENCODED: Final = re.compile(
    r"@([0-9a-f]{4})"
)  # how the name of a file encodes characters other than letters, digits and _
_OWN_FILES: Final = 32  # files that the tool opens, besides those of tables
_SMALL_FILE: Final = 64 << 10  # bytes
_MESSAGES: Final = 8 << 20  # bytes at the end of the tool's messages; it writes a line for each file
_RACES: Final = re.compile(  # messages of 10.11.19 when clients rename, move or drop tables meanwhile
    r"Attempted to open a previously opened tablespace\.[^\n]*"
    r"|Error 2 on file [^\n]* open during [^\n]* table copy: No such file or directory"
    r"|DDL operation detected in the late phase of backup[^\n]*"
)
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+")
_BINLOG: Final = re.compile(r"filename '(?P<file>[^']*)', position '(?P<position>\d+)'")
_GTID: Final = re.compile(r"GTID of the last change '(?P<gtid>[^']*)'")

# A waiting BACKUP STAGE statement of the tool; clients may run their own. TIME_MS is the time of the statement, so it
# starts again with each stage. It runs with the tool's account, which may end only its own connections.
_WAITING: Final = (
    "SELECT ID, USER, TIME_MS / 1000 FROM information_schema.PROCESSLIST"
    " WHERE USER = SUBSTRING_INDEX(CURRENT_USER(), '@', 1) AND ID <> CONNECTION_ID()"
    " AND INFO LIKE 'BACKUP STAGE %' AND STATE LIKE 'Waiting for %'"
)
_SPACES: Final = "SELECT NAME, SPACE FROM information_schema.INNODB_SYS_TABLES"
_FILES: Final = "SELECT SPACE FROM information_schema.INNODB_SYS_TABLESPACES WHERE NAME LIKE '%/%'"
_LOCKED_TABLES: Final = "SHOW OPEN TABLES WHERE In_use > 0"
_CLIENTS: Final = (
    "SELECT ID, USER, HOST, TIME FROM information_schema.PROCESSLIST"
    " WHERE ID <> CONNECTION_ID() AND COMMAND <> 'Daemon' AND USER <> 'system user' ORDER BY TIME DESC"
)


class MariaDBTool:
    """The backup tool of one installation; implements ``BackupTool`` (engines/base.py)."""

    captures: Mapping[str, int] = {
        **dict.fromkeys((*_CHECKPOINTS, *_INFO), 64 << 10),
        _REDO_LOG: _REDO_HEADER,
        "*.frm": 4,
        "*.ren": 512,
        "*.meta": MAX_META,
        "*.ibd": _FIRST_ID.stop,
        "*.new": _FIRST_ID.stop,
    }

    def __init__(self, installation: Installation, keys: KeyManagement | None = None) -> None:
        self.installation = installation
        self._keys = keys

    @contextmanager
    def take(
        self, server: ServerAccess, *, parent_lsn: int | None, lock_wait_timeout_s: float
    ) -> Iterator["MariaDBBackup"]:
        """Start mariabackup on a running server; see Engine.take."""
        self._refuse_other_versions(server)
        self._refuse_unfit_names(server.data_directory, increment=parent_lsn is not None)
        _refuse_too_many_files(server.data_directory)
        checkpoint_in_a_quiet_period(server)
        begun = _TablespaceSnapshot.of(server)
        server.messages.unlink(missing_ok=True)
        tool = self._tool(
            f"--defaults-file={server.defaults_file}",
            "--backup",
            "--stream=xbstream",
            f"--log-copy-interval={LOG_COPY_INTERVAL_MS}",
            f"--datadir={server.data_directory}",
            f"--target-dir={server.scratch}",
            f"--tmpdir={Path('..', server.scratch.name)}",  # relative to the data: a list separated by ":"
            *([] if parent_lsn is None else [f"--incremental-lsn={parent_lsn}"]),
            messages=server.messages,
            uid=server.uid,
            gid=server.gid,
            directory=server.data_directory,
            sandbox=Sandbox(
                reads=[*self.installation.directories, server.data_directory.parent], writes=[server.scratch]
            ),
        )
        with ToolStream(tool) as stream, _LockWatch(server, stream, lock_wait_timeout_s) as watch:
            yield MariaDBBackup(stream, watch, tool, parent_lsn, begun)

    def prepare(
        self,
        directory: Path,
        *,
        uid: int | None,
        gid: int | None,
        memory_bytes: int,
        stop: threading.Event | None = None,
    ) -> None:
        """Apply the redo log that came with the files; see Engine.prepare."""
        with _removed_at_the_end(directory):
            self._prepare(directory, None, uid=uid, gid=gid, memory_bytes=memory_bytes, stop=stop)
        try:
            punch_holes(directory)
        except OSError as error:
            raise Permanent(f"the prepared files cannot be made sparse: {error.strerror}") from error

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
        """Let the tool apply an increment; see Engine.apply.

        The tool requires that the increment starts exactly at the position that the directory has reached. An increment
        that starts earlier contains more, not less. So the directory's recorded position is set to that start.
        """
        from_lsn = _key_values(_read_own(increment, _CHECKPOINTS)[1]).get("from_lsn", "")
        name, text = _read_own(directory, _CHECKPOINTS)
        pairs = _key_values(text) | {"to_lsn": from_lsn}
        _replace_own(directory / name, "".join(f"{key} = {value}\n" for key, value in pairs.items()), uid, gid)
        _refuse_links_of_tables(increment)
        with _removed_at_the_end(directory):
            self._prepare_options(increment, directory, gid)
            self._prepare(directory, increment, uid=uid, gid=gid, memory_bytes=memory_bytes, stop=stop)

    def imported(self, server: ServerAccess) -> Mapping[Path, int]:
        """Examine the first pages of every table's file; see Engine.imported."""
        found = {}
        for database in server.data_directory.iterdir():
            if database.is_dir() and not database.is_symlink():
                for path in database.glob("*.ibd"):
                    head = _head_of(path)
                    if _is_imported(head):
                        found[path] = int(struct.unpack_from(">I", head, _SPACE_ID)[0])
        return found

    def lost_tables(self, server: ServerAccess, paths: Collection[str], captured: Mapping[str, bytes]) -> list[str]:
        """Compare the definitions with the files; see Engine.lost_tables."""
        there = {path.removesuffix(end) for path in paths for end in _DATA_ENDS if path.endswith(end)}
        there |= {text.decode(errors="replace") for path, text in captured.items() if path.endswith(".ren")}
        defined = {
            path.removesuffix(".frm")
            for path, head in captured.items()
            if path.endswith(".frm") and head[:2] == _TABLE_DEFINITION and head[3:4] == _OF_INNODB
        }
        missing = sorted(table for table in defined - there if not _is_temporary(table))
        if not missing:
            return []
        spaces: dict[str, int] = dict(server.administer(_SPACES, ANSWER_TIMEOUT_S))
        return [
            _table_name(table) for table in missing if not _has_no_file(server.data_directory, table, spaces.get(table))
        ]

    def cut_tables(self, captured: Mapping[str, bytes], unfinished: Collection[int]) -> list[str]:
        """Compare the ids of the tablespaces; see Engine.cut_tables."""
        partly = {path: space for path, space in _spaces_of(captured).items() if path.endswith(_META)}
        return sorted(
            _table_name(path.removesuffix(f".ibd{_META}")) for path, space in partly.items() if space in unfinished
        )

    def _prepare(
        self,
        directory: Path,
        increment: Path | None,
        *,
        uid: int | None,
        gid: int | None,
        memory_bytes: int,
        stop: threading.Event | None,
    ) -> None:
        messages = directory.parent / "prepare.log"
        messages.unlink(missing_ok=True)
        _refuse_links_of_tables(directory)
        _refuse_too_many_files(directory)
        options_file = directory.parent / _PREPARE_OPTIONS
        _write_readable(options_file, self._prepare_options(directory, directory, gid), gid)
        options = [] if increment is None else [f"--incremental-dir={increment}"]
        writes = [directory] if increment is None else [directory, increment]
        tool = self._tool(
            f"--defaults-file={options_file}",
            "--prepare",
            f"--target-dir={directory}",
            "--tmpdir=.",  # the directory itself: the option is a list separated by ":"
            f"--use-memory={memory_bytes}",
            # Without keys: a directory without libraries that the instance's user cannot write to.
            f"--plugin-dir={self.installation.share if self._keys is None else self._keys.library.parent}",
            *options,
            messages=messages,
            uid=uid,
            gid=gid,
            directory=directory,
            sandbox=Sandbox(
                reads=[*self.installation.directories, options_file, directory.parent / _KEYS], writes=writes
            ),
        )
        _insist_on_the_verdict(run_tool(tool, timeout_s=PREPARE_TIMEOUT_S, stop=stop), "prepare the backup")
        messages.unlink(missing_ok=True)

    def _prepare_options(self, directory: Path, data: Path, gid: int | None) -> bytes:
        """Replace the option file that came with a backup by a checked one; returns its text.

        The tool always reads the file in the directory, even if it is given another one, and loads the plugins that it
        names.

        Raises:
            Permanent: the file is missing or was not written by the tool, it names data files that are not in ``data``,
                or the backup is encrypted and this host has no keys.
        """
        _, text = _read_own(directory, (_OPTIONS,))
        options = innodb_options(text)
        _refuse_absent_data_files(options["innodb_data_file_path"], data)
        plugin = key_plugin(text)
        if plugin == KEY_PLUGIN and self._keys is None:
            raise Permanent(
                "the backup is encrypted, and its host has no keys", detail="encryption_key_file is not set"
            )
        if plugin not in {None, KEY_PLUGIN}:
            raise Permanent(f"the backup names the plugin {plugin!r}, and no plugin is loaded for a backup")
        if plugin is not None and self._keys is not None:
            _write_readable(directory.parent / _KEYS, self._keys.keys, gid)
            options |= {"plugin_load": f"{KEY_PLUGIN}={KEY_PLUGIN}.so", f"{KEY_PLUGIN}_filename": f"../{_KEYS}"}
        ours = "\n".join(["[mysqld]", *(f"{key}={value}" for key, value in options.items()), ""]).encode()
        _write_readable(directory / _OPTIONS, ours, gid)
        return ours

    def _tool(
        self,
        *arguments: str,
        messages: Path,
        uid: int | None,
        gid: int | None,
        directory: Path,
        sandbox: Sandbox,
    ) -> Tool:
        return Tool(
            argv=[self.installation.mariabackup, *arguments],
            messages=messages,
            uid=uid,
            gid=gid,
            env=self.installation.environment,
            cwd=directory,
            explain=explained,
            sandbox=sandbox,
        )

    def _refuse_other_versions(self, server: ServerAccess) -> None:
        """Raise ``Permanent`` for another series: the tool would read its files and silently write a useless backup."""
        try:
            version = str(server.administer("SELECT @@version", ANSWER_TIMEOUT_S)[0][0])
        except SnapholdError as error:
            raise Permanent(f"the database server cannot be asked for its version: {error}") from error
        series = self.installation.series
        if not version.startswith(f"{series}."):
            raise Permanent(f"the server is MariaDB {version}, but the backup tool is for {series}")

    def _refuse_unfit_names(self, data: Path, *, increment: bool) -> None:
        """Refuse names that make the tool fail without a clear reason, or too late.

        Raises:
            NoIncrement: a name is too long for an increment only.
            Permanent: a name is too long for any backup, or is that of a file that the engine needs.
        """
        others = "xtrabackup_" if self._is_renamed() else "mariadb_backup_"  # what this release does not write
        for database in os.scandir(data):
            if not database.is_dir(follow_symlinks=False):
                continue
            if is_engine_file(database.name) and not database.name.startswith(others):
                raise Permanent(
                    f"the database {database.name} has the name of a file of MariaDB's own, so that no backup of this "
                    "server could be restored: move its tables to a database with another name, and drop it"
                )
            length = len(os.fsencode(database.name))
            if _LONGEST_IN_INCREMENT - length >= MAX_PART:
                continue
            length += max((len(os.fsencode(name)) for name in _names_in(database)), default=0)
            if length > (_LONGEST_IN_INCREMENT if increment else _LONGEST_NAMES):
                fault = NoIncrement if length <= _LONGEST_NAMES else Permanent
                raise fault(
                    f"a table of the database {_decoded(database.name)} has a name that is too long for the backup "
                    "tool: give the table, or the database, a shorter one"
                )

    def _is_renamed(self) -> bool:
        """Whether the tool writes files with the prefix of its new name, as it does since 11.1."""
        return tuple(map(int, self.installation.series.split("."))) >= (11, 1)


class MariaDBBackup:
    """A running mariabackup; see BackupStream."""

    def __init__(
        self, stream: ToolStream, watch: "_LockWatch", tool: Tool, parent_lsn: int | None, begun: "_TablespaceSnapshot"
    ) -> None:
        self._stream = stream
        self._watch = watch
        self._tool = tool
        self._parent_lsn = parent_lsn
        self._snapshot = begun
        self._ended = False

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of the buffer; 0 at the end of a backup that the tool reported as complete."""
        try:
            count = self._stream.readinto(buffer)
        except Permanent as error:
            if self._watch.verdict is not None:
                raise SourceLocked(self._watch.verdict) from error
            self._refuse_races(error)
            raise
        if count == 0 and not self._ended:
            _insist_on_the_verdict(self._tool.tail(), "take the backup")
            self._ended = True
        return count

    def _refuse_races(self, error: Permanent) -> None:
        """Raise ``SourceChanged`` when the tool failed because a client changed tables meanwhile."""
        with suppress(FileNotFoundError), self._tool.messages.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MESSAGES))
            if lost := _RACES.search(file.read().decode(errors="replace")):
                raise SourceChanged(
                    "a table was moved or dropped while the backup tool copied it, which ended the tool",
                    detail=lost[0],
                ) from error

    def kill(self) -> None:
        """Kill the tool, which ignores SIGTERM."""
        self._stream.kill()

    def taken(self, captured: Mapping[str, bytes]) -> BackupMetadata:
        """Read the small files of the stream; see BackupStream."""
        if not self._ended:
            raise Permanent("the backup was not read to its end")
        taken = metadata_from(captured, self._parent_lsn)
        return replace(taken, unfinished=self._snapshot.missed(taken.checkpoint_lsn or 0, captured))


def metadata_from(captured: Mapping[str, bytes], parent_lsn: int | None) -> BackupMetadata:
    """Read the metadata of a backup from the small files of its stream.

    Raises:
        Permanent: a file is missing or cannot be understood, or the LSNs do not fit together.
        NoIncrement: the LSNs of an increment do not fit together: a parent's LSN that is above the server's gives a
            backup that ends before it starts.
    """
    checkpoints = _key_values(_first_of(captured, _CHECKPOINTS))
    info = _key_values(_first_of(captured, _INFO))
    try:
        from_lsn, to_lsn, last_lsn = (int(checkpoints[key]) for key in ("from_lsn", "to_lsn", "last_lsn"))
        server_version, tool_version = (_VERSION.search(info[key]) for key in ("server_version", "tool_version"))
    except (KeyError, ValueError) as error:
        raise Permanent(f"the stream's own facts cannot be understood: {error}") from error
    if server_version is None or tool_version is None:
        raise Permanent("the stream does not say which versions made it")
    checkpoint_lsn = start_checkpoint(captured.get(_REDO_LOG, b""))
    if from_lsn != (parent_lsn or 0) or not from_lsn <= to_lsn <= last_lsn or not checkpoint_lsn <= to_lsn:
        fault = Permanent if parent_lsn is None else NoIncrement
        raise fault(
            f"the backup's positions do not fit together: asked from {parent_lsn or 0}, from {from_lsn}, "
            f"checkpoint {checkpoint_lsn}, to {to_lsn}, last {last_lsn}"
        )
    position = info.get("binlog_pos", "")
    binlog, gtid = _BINLOG.search(position), _GTID.search(position)
    return BackupMetadata(
        from_lsn=parent_lsn,
        checkpoint_lsn=checkpoint_lsn,
        to_lsn=to_lsn,
        last_lsn=last_lsn,
        unfinished=frozenset(),
        server_version=server_version[0],
        tool_version=tool_version[0],
        gtid=gtid["gtid"] if gtid else None,
        binlog_file=binlog["file"] if binlog else None,
        binlog_position=int(binlog["position"]) if binlog else None,
    )


def start_checkpoint(redo_header: bytes) -> int:
    """Return the checkpoint at which the tool began to copy the redo log: the newer one in the log's header.

    Raises:
        Permanent: this is no redo log of 10.8 or later, or it has no checkpoint.
    """
    if redo_header[:4] not in _REDO_FORMATS or len(redo_header) < max(_CHECKPOINT_BLOCKS) + 8:
        raise Permanent("the stream's redo log is missing or of an unknown format")
    newest: int = max(struct.unpack_from(">Q", redo_header, offset)[0] for offset in _CHECKPOINT_BLOCKS)
    if not newest:
        raise Permanent("the stream's redo log has no checkpoint")
    return newest


def checkpoint_in_a_quiet_period(server: ServerAccess) -> None:
    """Have the server write its changed pages, unless it has just done so or is changing pages all the time.

    Then the backup starts at a checkpoint close to the newest change, and an increment from there repeats nothing. (The
    tool's own option for this has no effect.) A backup without it is as good, so errors are ignored.

    The server repeats the checkpoint until nothing was changed meanwhile, and not even ``KILL`` stops it (10.11.19).
    Under steady writes it would never end. So this waits, briefly, for a moment without changes.
    """
    with suppress(SnapholdError):
        begun_s = time.monotonic()
        if _status(server, "Innodb_checkpoint_age") <= _YOUNG:
            return
        last, changed_s, asked_s = _lsn_of(server), time.monotonic(), begun_s
        while asked_s - changed_s < _QUIET_S:
            time.sleep(_QUIET_POLL_S)
            asked_s, lsn = time.monotonic(), _lsn_of(server)
            if lsn != last:
                last, changed_s = lsn, time.monotonic()
                if changed_s - begun_s > _QUIET_WAIT_S:
                    return
        server.checkpoint(CHECKPOINT_TIMEOUT_S)


def _lsn_of(server: ServerAccess) -> int:
    """The server's current LSN."""
    return _status(server, "Innodb_lsn_current")


def _status(server: ServerAccess, name: str) -> int:
    """A status variable of the server that is a number. Raises ``Unavailable`` when it does not exist."""
    rows = server.administer(f"SHOW GLOBAL STATUS LIKE '{name}'", ANSWER_TIMEOUT_S)
    try:
        ((_, number),) = rows
        return int(number)
    except ValueError:
        raise Unavailable(f"the database server does not report its {name}") from None


@dataclass(frozen=True, kw_only=True)
class _TablespaceSnapshot:
    """The tablespaces with files, by id, just before the tool started. They are those of this LSN, or a later one."""

    server: ServerAccess
    lsn: int
    spaces: frozenset[int]

    @classmethod
    def of(cls, server: ServerAccess) -> Self:
        """Read the LSN first: a tablespace that is not in the list was created after it."""
        try:
            return cls(server=server, lsn=_lsn_of(server), spaces=cls._there(server))
        except SnapholdError as error:
            raise Permanent(f"the database server cannot be asked for its files: {error}") from error

    def missed(self, checkpoint_lsn: int, captured: Mapping[str, bytes]) -> frozenset[int]:
        """The tablespaces that may have pages older than the checkpoint but have no file in the stream.

        The file of a table that is being rebuilt has another name, and the tool skips it. An increment from the
        checkpoint contains only the pages that were written later. Raises ``Permanent``.
        """
        spaces = self.spaces
        try:
            if checkpoint_lsn > self.lsn:  # a checkpoint came after the list: newer tablespaces may be older than it
                spaces |= self._there(self.server)
        except SnapholdError as error:
            raise Permanent(f"the database server cannot be asked for its files: {error}") from error
        return spaces - set(_spaces_of(captured).values())

    @staticmethod
    def _there(server: ServerAccess) -> frozenset[int]:
        return frozenset(int(space) for (space,) in server.administer(_FILES, _FILES_TIMEOUT_S))


class _LockWatch:
    """Watches whether the tool waits for a client's lock, and ends the tool when it waits too long.

    ``verdict`` is the reason, once it has. The tool itself waits without limit, and all writers wait behind it.
    """

    def __init__(self, server: ServerAccess, stream: ToolStream, timeout_s: float) -> None:
        self.verdict: str | None = None
        self._server = server
        self._stream = stream
        self._timeout_s = timeout_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lock-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(min(WATCH_INTERVAL_S, self._timeout_s / 4)):
            with suppress(SnapholdError):  # if the server does not answer, the tool fails too
                for connection, user, seconds in self._server.administer_as_tool(_WAITING, ANSWER_TIMEOUT_S):
                    if seconds >= self._timeout_s:
                        self._abandon(int(connection), str(user))
                        return

    def _abandon(self, connection: int, user: str) -> None:
        reason = f"a table lock held by a client was not released within {self._timeout_s:g} s"
        with suppress(SnapholdError):
            reason += self._suspects(user)
        self.verdict = reason
        self._stream.kill()
        with suppress(SnapholdError):  # the server would notice later; clients that wait behind the tool need not
            self._server.administer_as_tool(f"KILL CONNECTION {connection:d}", ANSWER_TIMEOUT_S)

    def _suspects(self, tool_user: str) -> str:
        """Name the locked tables and the clients. The server does not report which client locks which table."""
        tables = [f"{row[0]}.{row[1]}" for row in self._ask(_LOCKED_TABLES)]
        clients: list[tuple[Any, ...]] = [
            row for row in self._ask(_CLIENTS) if row[1] != tool_user and row[2] is not None
        ]
        text = f" (locked: {', '.join(tables[:3])})" if tables else ""
        if clients:
            named = ", ".join(f"{row[0]} of user {row[1]} from {row[2]}" for row in clients[:3])
            text += f"; {'connection' if len(clients) == 1 else 'one of the connections'} {named}"
        return text

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        return self._server.administer(statement, ANSWER_TIMEOUT_S)


def _spaces_of(captured: Mapping[str, bytes]) -> dict[str, int]:
    """The tablespace ids of a stream's files, by path."""
    found = {}
    for path, head in captured.items():
        if path.endswith(_META):
            found[path] = Meta.parse(path, head).space_id
        elif path.endswith((".ibd", ".new")) and len(head) == _FIRST_ID.stop:
            found[path] = int.from_bytes(head[_FIRST_ID], "big")
    return found


@contextmanager
def _removed_at_the_end(directory: Path) -> Iterator[None]:
    """Remove the option file and the keys beside a directory, whether preparing it has succeeded or failed."""
    try:
        yield
    finally:
        for name in (_PREPARE_OPTIONS, _KEYS):
            (directory.parent / name).unlink(missing_ok=True)


def _insist_on_the_verdict(tail: str, doing: str) -> None:
    if _VERDICT not in tail:
        words, detail = explained(tail)
        raise Permanent(f"mariabackup could not {doing}: it ended without saying '{_VERDICT}': {words}", detail=detail)


def _first_of(captured: Mapping[str, bytes], names: tuple[str, ...]) -> bytes:
    for name in names:
        if name in captured:
            return captured[name]
    raise Permanent(f"the stream has no {names[0]}: it is not complete")


def _key_values(text: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.decode(errors="replace").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _head_of(path: Path) -> bytes:
    """The first pages of a file that another user may replace at any time; empty when it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, _FIRST_BYTES, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _is_imported(head: bytes) -> bool:
    """Whether one of the first pages has content but no LSN: it was imported, and the redo log does not know it."""
    size = page_size_of(head)
    pages = (head[at : at + size] for at in range(0, min(_FIRST_PAGES * size, len(head)), size))
    return any(not any(page[_PAGE_LSN]) and any(page) for page in pages)


def _has_no_file(data: Path, table: str, space_id: int | None) -> bool:
    """Whether a table (a path without its suffix) that InnoDB knows has no file of its own, so that none is lost."""
    return space_id is not None and (space_id == 0 or not os.path.lexists(data / f"{table}.ibd"))


def _names_in(directory: os.DirEntry[str]) -> list[str]:
    """The names in a database's directory; none if the database was dropped meanwhile."""
    try:
        return [path.name for path in Path(directory).iterdir()]
    except FileNotFoundError:
        return []


def _decoded(name: str) -> str:
    """The name of the database or table whose file or directory has this name."""
    return _ENCODED.sub(lambda found: chr(int(found[1], 16)), name).encode(errors="replace").decode()


def _table_name(path: str) -> str:
    """``database.table`` of a table, or of one of its partitions, whose files have this path without its suffix."""
    database, _, table = path.partition("/")
    return f"{_decoded(database)}.{_decoded(table.partition('#P#')[0])}"


def _is_temporary(table: str) -> bool:
    """Whether it is a temporary table of an ALTER TABLE."""
    return table.rpartition("/")[2].startswith("#sql")


def _read_own(directory: Path, names: tuple[str, ...]) -> tuple[str, bytes]:
    """Read one of these small files of another user; returns its name and content. Raises ``Permanent``."""
    for name in names:
        with suppress(FileNotFoundError):
            descriptor = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                return name, file.read(_SMALL_FILE)
    raise Permanent(f"the backup has no {names[0]}")


def _replace_own(path: Path, text: str, uid: int | None, gid: int | None) -> None:
    """Write a small file for another user into the user's directory."""
    new = path.with_name(f".tmp.{uuid.uuid4().hex}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if uid is not None and gid is not None:
            os.fchown(file.fileno(), uid, gid)
    new.rename(path)


def _write_readable(path: Path, data: bytes, gid: int | None) -> None:
    """Write a small file that the user of this group may read but not write."""
    new = path.with_name(f".tmp.{uuid.uuid4().hex}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if gid is not None:
            os.fchown(file.fileno(), -1, gid)
            os.fchmod(file.fileno(), 0o640)
    new.rename(path)


def _refuse_too_many_files(directory: Path) -> None:
    """Raise ``Permanent`` when the hard limit of open files is too low for the tool.

    The tool opens the files of all InnoDB tables at once, to take a backup and to prepare one. Its soft limit is raised
    to the hard one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    needed = _OWN_FILES + sum(name.endswith(".ibd") for _, _, names in os.walk(directory) for name in names)
    if needed > allowed:
        raise Permanent(
            f"the backup tool needs {needed} open files, one for each table, and its host allows {allowed}",
            detail="ulimit -Hn, LimitNOFILE",
        )


def _refuse_absent_data_files(path_option: str, data: Path) -> None:
    """Raise ``Permanent`` for a data file that is not in the directory, or is shorter than the option says.

    The tool and the server would allocate the missing bytes.
    """
    for name, size_bytes in data_files(path_option):
        facts = (data / name).lstat() if os.path.lexists(data / name) else None
        if facts is None or not stat.S_ISREG(facts.st_mode) or facts.st_size < size_bytes:
            raise Permanent(
                f"the backup's option file is not the backup tool's: {name} of {size_bytes} bytes is missing"
            )


def _refuse_links_of_tables(directory: Path) -> None:
    """Refuse files that place a table outside its database's directory. No server of ours writes such files.

    Raises ``Permanent``. InnoDB would open whatever the file names, as the instance's user.
    """
    for path, _, names in os.walk(directory):
        for name in names:
            if name.endswith(_LINK_OF_TABLE):
                where = Path(path, name).relative_to(directory)
                raise Permanent(f"the backup holds {where}, which points to a table outside of the data directory")
