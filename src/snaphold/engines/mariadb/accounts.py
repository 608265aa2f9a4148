"""The accounts by which this host gets into its servers.

Three internal accounts exist in every server, all only from this machine through a socket: one to look after the
server, with the rights of a customer's root; one for the backup tool, with the rights that the tool documents; and one
with SUPER, for the few things that need it. They are made anew at each start, before the first client is let in, from
an init file that holds hashes only; so whatever a restored data directory says of them does not count. The passwords
stand in files of the instance's directory, which its server's user can not write; the backup tool, which runs as that
user, reads its own.

A customer's root may name anybody as the DEFINER of a view or a routine, which then acts with that account's rights.
The first two accounts have none that root has not. The third is called by a random name and stands in no table: the
server knows it until it reads its tables anew (FLUSH PRIVILEGES), or until it ends. Its name is seen in the list of
processes only while it is connected, a moment before each backup. What needs it can be done without.
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
# What a customer's root may: all that concerns its own data and users, loading dumps with other users' definers and
# binary logs, and replication. Not FILE, SUPER and SHUTDOWN, nor what else was split off from SUPER and would touch the
# server itself. Whoever may write the system's tables, or follow a master of its own, can give itself more; the walls
# around an instance do not rest on what is granted in it.
ROOT_RIGHTS: Final = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES,"
    " CREATE TEMPORARY TABLES, LOCK TABLES, REPLICATION SLAVE, BINLOG MONITOR, EXECUTE, CREATE VIEW, SHOW VIEW,"
    " CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER, DELETE HISTORY, SET USER, BINLOG ADMIN,"
    " BINLOG REPLAY, REPLICATION MASTER ADMIN, REPLICATION SLAVE ADMIN, SLAVE MONITOR"
)
_SINCE_11_3: Final = ", SHOW CREATE ROUTINE"  # a right of its own from then on, also of a database
_FORGET: Final = "DELETE FROM mysql.global_priv WHERE User = '{}'"  # the server's memory keeps it
RESERVED_USERS: Final = frozenset({"", "root", "mysql", "mariadb.sys", "PUBLIC", ADMIN, BACKUP})
LONGEST_SOCKET_PATH: Final = 107  # bytes, sockaddr_un
_LONGEST_ACCOUNT_FILE: Final = 16384  # bytes; a path of the socket (at most 4096, escaped) is in it
_ACCOUNT_FILE: Final = re.compile(  # earlier releases wrote no quotes, and the servers that they started still run
    rb'\[client\]\nuser="?(?P<user>[a-z0-9_]+)"?\npassword="?(?P<password>[0-9a-f]+)"?\nsocket=[^\n]*\n'
)


def write_internal_accounts(
    admin_file: Path, backup_file: Path, super_file: Path, socket: Path, owner: Owner | None
) -> None:
    """Give the internal accounts new random passwords, and the one with SUPER a new name, from the next start on.

    Not synced: after a power failure the next start writes them anew.
    """
    super_user = f"{INTERNAL_PREFIX}{secrets.token_hex(16)}"
    for user, path, reader in ((ADMIN, admin_file, None), (BACKUP, backup_file, owner), (super_user, super_file, None)):
        account = {"user": user, "password": secrets.token_hex(24), "socket": os.fspath(tool_socket(socket))}
        write_atomically(path, option_file("client", account), reader=reader, sync=False)


def tool_socket(socket: Path) -> Path:
    """The socket as a program with the data directory as its working directory names it: never too long."""
    return socket if len(os.fsencode(socket)) <= LONGEST_SOCKET_PATH else relative_socket(socket)


def relative_socket(socket: Path) -> Path:
    """The socket as seen from the data directory, where the server works."""
    return Path("..", *socket.parts[-2:])


def root_rights(series: str) -> str:
    """The rights of a customer's root, and of the admin account, in servers of a series ("10.11").

    Only who has every right that a database can be granted may grant all of them.
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
    """The form in which MariaDB keeps a password: ``*`` and SHA-1 of SHA-1."""
    return "*" + hashlib.sha1(hashlib.sha1(password.encode()).digest()).hexdigest().upper()  # noqa: S324 - its format


def credentials(path: Path) -> tuple[str, str]:
    """User and password of an account file. Raises ``Unavailable``."""
    found = _ACCOUNT_FILE.fullmatch(read_untrusted(path, _LONGEST_ACCOUNT_FILE) or b"")
    if found is None:
        raise Unavailable("the host's own account of the instance cannot be used", detail=f"{path} has another form")
    return found["user"].decode(), found["password"].decode()
