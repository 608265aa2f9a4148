"""The files of a SQLite database: only the owner may read them, and they are checked while the database is open.

SQLite goes on writing into files that were removed or replaced under it, and what it writes there is lost.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, event, exc

from snaphold.errors import SetupError

_log = structlog.get_logger(__name__)

EXCHANGED: Final = "its file was removed or replaced"  # the error of every transaction then; it is logged once
_SUFFIXES: Final = ("", "-wal", "-shm")


def close_to_others(path: Path) -> None:
    """Create the database file if it does not exist, and let only its owner read it and the files beside it.

    Raises:
        SetupError: it cannot be made, or is somebody else's.
    """
    try:
        # Never a file that is there: closing it would end SQLite's locks of this process on it, and then the next
        # process to leave the database removes a log that this one goes on writing to.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise SetupError(f"the database {path} cannot be made: {error.strerror}") from error
    for file in _files_of(path):
        try:
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SetupError(f"{file} cannot be closed to others: {error.strerror}") from error


class WatchedFiles:
    """The files of an open database, each of which must remain the file that was opened.

    One connection is kept for as long as this object lives: while there is one, SQLite itself removes none of them.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self.version()  # a first look opens all of them
        self._opened = [(str(file), _identity(str(file))) for file in _files_of(path)]
        self._told = False

    def watch(self, engine: Engine) -> None:
        """Let transactions of this engine begin and commit only while the files are unchanged."""
        event.listen(engine, "begin", self._check, insert=True)
        event.listen(engine, "commit", self._check)

    def version(self) -> object:
        """Another value after each commit by any connection of any process; a new one where that cannot be told.

        It takes microseconds, and never waits.
        """
        return self.read_at_once("PRAGMA data_version")

    def read_at_once(self, statement: str) -> object:
        """The one value that a statement reads, without waiting; a value equal to no other when it cannot be read."""
        try:
            ((value,),) = self._connection.execute(statement).fetchall()
        except sqlite3.Error:
            return object()
        return value

    def exchanged(self) -> Path | None:
        """The first file that was removed or replaced since it was opened, or None. It takes microseconds."""
        for file, opened in self._opened:
            if _identity(file) != opened:
                return Path(file)
        return None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _check(self, _connection: Connection) -> None:
        file = self.exchanged()
        if file is None:
            self._told = False
            return
        if not self._told:
            self._told = True
            found = "replaced" if file.exists() else "removed"
            _log.error(
                "database.file_exchanged", file=str(file), found=found, mend="put it back, or restart the service"
            )
        raise exc.OperationalError(None, None, sqlite3.OperationalError(EXCHANGED))


def _files_of(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _SUFFIXES]


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - several times as quick, and asked at each transaction
    except OSError:
        return None
    return found.st_dev, found.st_ino
