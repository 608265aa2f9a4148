"""Connects to servers with the host's internal accounts. The server's answers are untrusted.

A tenant may have replaced what a statement reads, or may control the whole server. So a connection has one deadline for
all its statements and one limit of bytes for all its answers, and rows are counted while they arrive. When a limit is
reached, the connection is closed and the server is told to end the statement.
"""

import os
import socket as sockets
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pymysql
from pymysql.constants import CR, ER
from pymysql.cursors import SSCursor

from snaphold.engines.base import Denied
from snaphold.engines.mariadb.accounts import LONGEST_SOCKET_PATH, credentials
from snaphold.errors import BadRequest, NotFound, SnapholdError, Unavailable, Unprocessable

MOST_BYTES: Final = 64 << 20  # that one connection reads
MOST_ROWS: Final = 500_000  # of one answer; no server has so many tables
_MOST_TEXT: Final = 500  # characters of a server's message
_KILL_TIMEOUT_S: Final = 2.0
_STATEMENT_TIMEOUT: Final = 1969  # ER_STATEMENT_TIMEOUT, of MariaDB only
_WRONG_STRING_LENGTH: Final = 1470  # ER_WRONG_STRING_LENGTH of MariaDB
_REFUSALS: Final[dict[int, type[SnapholdError]]] = {
    ER.DB_CREATE_EXISTS: BadRequest,
    ER.DB_DROP_EXISTS: NotFound,
    ER.CANNOT_USER: BadRequest,
    ER.WRONG_DB_NAME: BadRequest,
    ER.UNKNOWN_CHARACTER_SET: BadRequest,
    ER.UNKNOWN_COLLATION: BadRequest,
    ER.COLLATION_CHARSET_MISMATCH: BadRequest,
    ER.TOO_LONG_IDENT: BadRequest,
    ER.WRONG_STRING_LENGTH: BadRequest,
    _WRONG_STRING_LENGTH: BadRequest,
}
_OWN_WORDS: Final = {  # what clients have done, for which the server's message would be no help
    ER.LOCK_WAIT_TIMEOUT: "A client's lock is in the way: let it end its transaction or statement, and try again.",
    ER.NEW_ABORTING_CONNECTION: "The instance's init_connect fails, which the service's connections run too.",
    ER.OPTION_PREVENTS_STATEMENT: "The instance's server is read-only: set read_only to OFF, and try again.",
}
_NOT_A_TABLE: Final = frozenset({ER.NO_SUCH_TABLE, ER.WRONG_OBJECT, ER.ILLEGAL_HA})
_LOST: Final = frozenset({CR.CR_SERVER_LOST, CR.CR_SERVER_GONE_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR})
# PyMySQL raises these for bytes that are not a packet, or not the packet that it expects.
_NO_PACKET: Final = (AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


class Session:
    """A connection to a server, until its deadline."""

    def __init__(self, connection: "pymysql.Connection[Any]") -> None:
        self._connection = connection

    def run(
        self, statement: str, arguments: Sequence[object] = (), *, most_rows: int = MOST_ROWS
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a statement. Without ``arguments``, ``%`` has no special meaning in it.

        Raises:
            TooMuch: there are more rows, or more bytes than the connection may read.
            Unavailable: the server does not answer in time, or refuses for a reason that has nothing to do with the
                request.
            Refused: a child of it, when the server refuses because of the request.
        """
        return self.table(statement, arguments, most_rows=most_rows)[1]

    def table(
        self, statement: str, arguments: Sequence[object] = (), *, most_rows: int = MOST_ROWS
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return the names of the columns, and the rows. See ``run``."""
        cursor = _Rows(self._connection)
        try:
            with _understood():
                cursor.execute(statement, tuple(arguments) or None)
                names = [str(column[0]) for column in cursor.description or ()]
                rows = list(islice(cursor, most_rows + 1)) if names else []
                if len(rows) <= most_rows:
                    cursor.close()
        finally:
            cursor.abandon()
        if len(rows) > most_rows:
            raise TooMuch(f"the database server's answer has more than {most_rows} rows")
        return names, rows


class NotATable(Unprocessable):
    """A table does not exist, or a client has put something else in its place."""


class TooMuch(Unprocessable):
    """A server's answer is larger than any answer that this host expects."""


@contextmanager
def session(account_file: Path, socket: Path, *, timeout_s: float, most_bytes: int = MOST_BYTES) -> Iterator[Session]:
    """Open a session with the account in this file. It ends after ``timeout_s``, whatever the server does.

    Raises as ``Session.run`` does, also in the body of the ``with``.
    """
    user, password = credentials(account_file)
    connection = _connect(user, password, socket, _Line(time.monotonic() + timeout_s, most_bytes))
    try:
        opened = Session(connection)
        # A client with SUPER may have changed the defaults of sessions.
        opened.run(
            "SET SESSION sql_mode = '', sql_select_limit = DEFAULT, tx_read_only = OFF, max_statement_time = %s,"
            " lock_wait_timeout = %s",
            (round(timeout_s, 3), max(1, int(timeout_s) - 1)),
        )
        yield opened
    except (TooMuch, Unavailable):
        _end_on_the_server(user, password, socket, int(connection.thread_id()))  # type: ignore[no-untyped-call]
        raise
    finally:
        with suppress(pymysql.MySQLError):
            connection.close()


@contextmanager
def _understood() -> Iterator[None]:
    """Turn PyMySQL's exceptions into errors of snaphold."""
    try:
        yield
    except pymysql.MySQLError as error:
        raise _meaning(error) from error
    except (struct.error, *_NO_PACKET) as error:
        raise Unavailable("the database server does not answer") from error


class _Rows(SSCursor):
    """A cursor that reads row by row and can be abandoned before its last row."""

    def abandon(self) -> None:
        """Do not read the remaining rows. The connection cannot be used afterwards."""
        result: Any = self._result  # type: ignore[has-type] # the stubs know it, but not what it is
        if result is not None:
            result.unbuffered_active = False
        self._result = None
        self.connection = None  # type: ignore[assignment] # as close() does


class _Line(sockets.socket):
    """A socket with one deadline (``time.monotonic()``) and one limit of bytes for everything that is read."""

    def __init__(self, deadline_s: float, allowance_bytes: int) -> None:
        super().__init__(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self._deadline_s = deadline_s
        self._left_bytes = allowance_bytes

    def settimeout(self, value: float | None, /) -> None:
        """Ignored: PyMySQL's timeouts start again with every read."""

    def connect(self, address: Any, /) -> None:
        """Connect before the deadline."""
        self._set_deadline()
        super().connect(address)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send before the deadline."""
        self._set_deadline()
        super().sendall(data, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive before the deadline. Raises ``TooMuch``."""
        self._set_deadline()
        count = super().recv_into(buffer, nbytes, flags)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise TooMuch("the database server's answer is too large")
        return count

    def _set_deadline(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        super().settimeout(left_s)


def _connect(user: str, password: str, socket: Path, line: _Line) -> "pymysql.Connection[Any]":
    try:
        with _understood():
            with _short_path(socket) as path:
                line.connect(path)
            connection: pymysql.Connection[Any] = pymysql.Connection(
                user=user,
                password=password,
                charset="utf8mb4",
                autocommit=True,
                defer_connect=True,
                ssl_disabled=True,  # not needed for a local socket, and it would load all certificates of the system
            )
            connection.connect(line)
    except BaseException:
        line.close()
        raise
    return connection


def _end_on_the_server(user: str, password: str, socket: Path, connection_id: int) -> None:
    """Have the server end the statement of a connection. If that fails, its time limit ends it."""
    with suppress(SnapholdError):
        killer = _connect(user, password, socket, _Line(time.monotonic() + _KILL_TIMEOUT_S, MOST_BYTES))
        try:
            Session(killer).run(f"KILL HARD CONNECTION {connection_id:d}")
        finally:
            with suppress(pymysql.MySQLError):
                killer.close()


@contextmanager
def _short_path(socket: Path) -> Iterator[str]:
    """A path of the socket that fits into sockaddr_un, however long the state directory's path is."""
    if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH:
        yield str(socket)
        return
    descriptor = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{socket.name}"
    finally:
        os.close(descriptor)


def _meaning(error: pymysql.MySQLError) -> SnapholdError:
    number, text = (*error.args, "", "")[:2]
    said = str(text or error)[:_MOST_TEXT]
    if number in _OWN_WORDS:
        return Unprocessable(_OWN_WORDS[number], detail=said)
    if number in _NOT_A_TABLE:
        return NotATable("A table of the instance is missing, or is not a table any more.", detail=said)
    if number in _REFUSALS:
        return _REFUSALS[number](said)
    if number in _LOST or number == _STATEMENT_TIMEOUT:
        return Unavailable("the database server does not answer")
    if number == ER.ACCESS_DENIED_ERROR:
        return Denied("the host's own account was changed in the server: a restart makes it anew")
    return Unavailable("the database server refused to do its part", detail=said)
