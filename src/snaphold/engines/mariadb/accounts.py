"""The internal accounts, with which this host connects to its servers.

Every server has three of them, and they can only connect from this machine through a socket: the admin account, with
the rights of a customer's root; the account of the backup tool, with the rights that the tool documents; and an account
with SUPER, for the few statements that need it. An init file that contains only hashes creates them at each start,
before the first client can connect, so those in a restored data directory are never used. The passwords are in files of
the instance's directory, which the server's user cannot write. The backup tool runs as that user and reads its own.

A customer's root may name any account as the DEFINER of a view or a routine, which then has the rights of this account.
The first two accounts have no right that root does not have. The third has a random name and is in no table: the server
knows it only until it reads its tables again (FLUSH PRIVILEGES) or ends. The list of processes shows its name only
while it is connected, for a moment before each backup. A backup succeeds without it.
"""

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

from snaphold.disk import Owner, read_untrusted, write_atomically
from snaphold.engines.mariadb.options import option_file
from snaphold.errors import Unavailable

ADMIN: Final = "snaphold_admin"
BACKUP: Final = "snaphold_backup"
INTERNAL_PREFIX: Final = "snaphold_"  # of every internal account's name
BACKUP_RIGHTS: Final = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR"  # what mariabackup documents
# The rights of a customer's root: everything that concerns its own data and users, loading dumps with definers and
# binary logs of other users, and replication. Not FILE, SUPER, SHUTDOWN, or other parts of SUPER that affect the server
# itself. A user who can write the system tables, or replicate from a server of its own, can grant itself more: the
# isolation of an instance does not depend on the grants in it.
ROOT_RIGHTS: Final = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES,"
    " CREATE TEMPORARY TABLES, LOCK TABLES, REPLICATION SLAVE, BINLOG MONITOR, EXECUTE, CREATE VIEW, SHOW VIEW,"
    " CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER, DELETE HISTORY, SET USER, BINLOG ADMIN,"
    " BINLOG REPLAY, REPLICATION MASTER ADMIN, REPLICATION SLAVE ADMIN, SLAVE MONITOR"
)
_SINCE_11_3: Final = ", SHOW CREATE ROUTINE"  # a right of its own from then on, also of a database
_FORGET: Final = "DELETE FROM mysql.global_priv WHERE User = '{}'"  # the account stays in the server's memory
RESERVED_USERS: Final = frozenset({"", "root", "mysql", "mariadb.sys", "PUBLIC", ADMIN, BACKUP})
LONGEST_SOCKET_PATH: Final = 107  # bytes, sockaddr_un
_LONGEST_ACCOUNT_FILE: Final = 16384  # bytes; it contains the socket's path (at most 4096 bytes, escaped)
_ACCOUNT_FILE: Final = re.compile(  # releases before quotes were written may have started servers that still run
    rb'\[client\]\nuser="?(?P<user>[a-z0-9_]+)"?\npassword="?(?P<password>[0-9a-f]+)"?\nsocket=[^\n]*\n'
)


def write_internal_accounts(
    admin_file: Path, backup_file: Path, super_file: Path, socket: Path, owner: Owner | None
) -> None:
    """Give the internal accounts new random passwords, and the one with SUPER a new name, from the next start on.

    The files are not synced: after a power failure, the next start writes them again.
    """
    super_user = f"{INTERNAL_PREFIX}{secrets.token_hex(16)}"
    for user, path, reader in ((ADMIN, admin_file, None), (BACKUP, backup_file, owner), (super_user, super_file, None)):
        account = {"user": user, "password": secrets.token_hex(24), "socket": os.fspath(tool_socket(socket))}
        write_atomically(path, option_file("client", account), reader=reader, sync=False)


def tool_socket(socket: Path) -> Path:
    """A path of the socket, for a program that works in the data directory, that is never too long."""
    return socket if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH else relative_socket(socket)


def relative_socket(socket: Path) -> Path:
    """The path of the socket relative to the data directory, which is the server's working directory."""
    return Path("..", *socket.parts[-2:])


def root_rights(series: str) -> str:
    """The rights of a customer's root, and of the admin account, in servers of a series ("10.11").

    An account can grant all rights on a database only if it has each of them.
    """
    return ROOT_RIGHTS + (_SINCE_11_3 if tuple(map(int, series.split("."))) >= (11, 3) else "")


def init_sql(admin_file: Path, backup_file: Path, super_file: Path, *, series: str) -> bytes:
    """The init file, one statement a line: it replaces the internal accounts. ``series``: of the server."""
    statements = [
        "SET SESSION sql_log_bin = 0",
        *_making(admin_file, root_rights(series), "WITH GRANT OPTION"),
        *_making(backup_file, BACKUP_RIGHTS),
        *_making(super_file, "SUPER"),
        _FORGET.format(credentials(super_file)[0]),
    ]
    return "".join(f"{statement};\n" for statement in statements).encode()


def _making(account_file: Path, rights: str, option: str = "") -> list[str]:
    user, password = credentials(account_file)
    account, hashed = f"'{user}'@'localhost'", native_hash(password)
    return [
        f"CREATE OR REPLACE USER {account} IDENTIFIED VIA mysql_native_password USING '{hashed}'",
        f"GRANT {rights} ON *.* TO {account} {option}".rstrip(),
    ]


def native_hash(password: str) -> str:
    """The hash of a password in mysql_native_password: ``*`` and the SHA-1 of the SHA-1."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()  # noqa: S324 - its format


def credentials(path: Path) -> tuple[str, str]:
    """Return the user and the password of an account file. Raises ``Unavailable``."""
    found = _ACCOUNT_FILE.fullmatch(read_untrusted(path, _LONGEST_ACCOUNT_FILE) or b"")
    if found is None:
        raise Unavailable("the host's own account of the instance cannot be used", detail=f"{path} has another form")
    return found["user"].decode(), found["password"].decode()
