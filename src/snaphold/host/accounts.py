"""The accounts by which this host gets into its servers, and the connections made with them.

Two internal accounts exist in every server, both only from this machine through the socket: one to look after the
server, one for the backup tool with no more rights than the tool documents. They are made anew at each start, before
the first client is let in, from an init file that holds hashes only; so whatever a restored data directory says of
them does not count. The passwords stand in files of the instance's directory, which its server's user can
not write; the backup tool, which runs as that user, reads its own.
"""

import hashlib
import os
import re
import secrets
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pymysql
from pymysql.constants import CR, ER

from snaphold.engines.options import option_file
from snaphold.errors import BadRequest, NotFound, SnapholdError, Unavailable, Unprocessable
from snaphold.host.disk import Owner, read_untrusted, write_atomically

ADMIN: Final = "snaphold_admin"
BACKUP: Final = "snaphold_backup"
BACKUP_RIGHTS: Final = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR"  # what mariabackup documents
RESERVED_USERS: Final = frozenset({"", "root", "mysql", "mariadb.sys", "PUBLIC", ADMIN, BACKUP})
LONGEST_SOCKET_PATH: Final = 107  # bytes, sockaddr_un
_LONGEST_ACCOUNT_FILE: Final = 16384  # bytes; a path of the socket (at most 4096, escaped) is in it
_ACCOUNT_FILE: Final = re.compile(  # earlier releases wrote no quotes, and the servers that they started still run
    rb'\[client\]\nuser="?(?P<user>[a-z_]+)"?\npassword="?(?P<password>[0-9a-f]+)"?\nsocket=[^\n]*\n'
)

_ANSWERS: Final[dict[int, type[SnapholdError]]] = {
    ER.DB_CREATE_EXISTS: BadRequest,
    ER.DB_DROP_EXISTS: NotFound,
    ER.CANNOT_USER: BadRequest,
    ER.WRONG_DB_NAME: BadRequest,
    ER.UNKNOWN_CHARACTER_SET: BadRequest,
    ER.UNKNOWN_COLLATION: BadRequest,
    ER.COLLATION_CHARSET_MISMATCH: BadRequest,
    ER.WRONG_STRING_LENGTH: BadRequest,
    ER.LOCK_WAIT_TIMEOUT: Unprocessable,
}


def write_internal_accounts(admin_file: Path, backup_file: Path, socket: Path, owner: Owner | None) -> None:
    """Give both internal accounts new random passwords; they are good from the next start on.

    Not synced: after a power failure the next start writes them anew.
    """
    for user, path, reader in ((ADMIN, admin_file, None), (BACKUP, backup_file, owner)):
        account = {"user": user, "password": secrets.token_hex(24), "socket": os.fspath(tool_socket(socket))}
        write_atomically(path, option_file("client", account), reader=reader, sync=False)


def tool_socket(socket: Path) -> Path:
    """The socket as a program with the data directory as its working directory names it: never too long."""
    return socket if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH else relative_socket(socket)


def relative_socket(socket: Path) -> Path:
    """The socket as seen from the data directory, where the server works."""
    return Path("..", *socket.parts[-2:])


def init_sql(admin_file: Path, backup_file: Path) -> bytes:
    """The init file: one statement a line. It makes the internal accounts anew, whatever was there."""
    lines = ["SET SESSION sql_log_bin = 0;"]
    for path, rights in ((admin_file, "ALL PRIVILEGES"), (backup_file, BACKUP_RIGHTS)):
        user, password = _credentials(path)
        account, hashed = f"'{user}'@'localhost'", native_hash(password)
        lines.append(f"CREATE OR REPLACE USER {account} IDENTIFIED VIA mysql_native_password USING '{hashed}';")
        option = " WITH GRANT OPTION" if user == ADMIN else ""
        lines.append(f"GRANT {rights} ON *.* TO {account}{option};")
    return "\n".join(lines).encode() + b"\n"


def native_hash(password: str) -> str:
    """The form in which MariaDB keeps a password: ``*`` and SHA-1 of SHA-1."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()  # noqa: S324 - its format


@contextmanager
def administer(admin_file: Path, socket: Path, *, timeout_s: float) -> Iterator[pymysql.cursors.Cursor]:
    """A cursor of the admin account, which waits for no lock and no answer longer than ``timeout_s``.

    Raises:
        Unavailable: the server does not answer.
        Refused: a child of it, for what the server refuses because of the request.
    """
    user, password = _credentials(admin_file)
    try:
        with (
            _short_path(socket) as path,
            closing(_connect(user, password, path, timeout_s)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SET SESSION lock_wait_timeout = %s, sql_mode = ''", (max(1, int(timeout_s) - 1),))
            yield cursor
    except pymysql.MySQLError as error:
        raise _meaning(error) from error
    except (OSError, struct.error) as error:  # the line broke, or what came is no packet: PyMySQL passes these on
        raise Unavailable("the database server does not answer") from error


def _connect(user: str, password: str, socket: str, timeout_s: float) -> "pymysql.Connection[Any]":
    return pymysql.connect(
        unix_socket=socket,
        ssl_disabled=True,  # needless on this machine, and all of the system's certificates are read for it
        user=user,
        password=password,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=max(1, int(timeout_s)),
        read_timeout=timeout_s,
        write_timeout=timeout_s,
    )


@contextmanager
def _short_path(socket: Path) -> Iterator[str]:
    """A name of the socket that fits into sockaddr_un, however deep the state directory lies."""
    if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH:
        yield str(socket)
        return
    try:
        descriptor = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise Unavailable("the database server does not answer") from error
    try:
        yield f"/proc/self/fd/{descriptor}/{socket.name}"
    finally:
        os.close(descriptor)


def _credentials(path: Path) -> tuple[str, str]:
    """User and password of an account file."""
    found = _ACCOUNT_FILE.fullmatch(read_untrusted(path, _LONGEST_ACCOUNT_FILE) or b"")
    if found is None:
        raise Unavailable(f"the account file {path.name} of the instance cannot be read")
    return found["user"].decode(), found["password"].decode()


def _meaning(error: pymysql.MySQLError) -> SnapholdError:
    number, text = (*error.args, "", "")[:2]
    if number in _ANSWERS:
        return _ANSWERS[number](str(text))
    if number in {CR.CR_SERVER_LOST, CR.CR_SERVER_GONE_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_CONNECTION_ERROR}:
        return Unavailable("the database server does not answer")
    return Unavailable(f"the database server refused: {text or error}")
