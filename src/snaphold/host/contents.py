"""The databases and users in a server, as documents of the agent protocol. What belongs to the system stays hidden.

Every function takes a cursor of the admin account. Names are quoted here; passwords come as hashes only.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pymysql.cursors import Cursor

from snaphold.errors import BadRequest, NotFound
from snaphold.host.accounts import RESERVED_USERS
from snaphold.protocol import DatabaseSpec, QuestionKind, UserChange, UserSpec

SYSTEM_DATABASES: Final = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
_PASSWORD_HASH: Final = re.compile(r"\*[0-9A-F]{40}")
_WORD: Final = re.compile(r"[A-Za-z0-9_]+")  # a character set or a collation
_GRANT_COLUMN: Final = 64  # characters of mysql.db.Db
_ROOT: Final = ("root", "%")
# What a customer's root may: all that concerns its own data and users. Not FILE, SUPER and SHUTDOWN, nor what was split
# off from SUPER and would touch the server itself. Whoever may write the system's tables can give itself more; the
# walls around an instance do not rest on what is granted in it.
_ROOT_RIGHTS: Final = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES,"
    " CREATE TEMPORARY TABLES, LOCK TABLES, REPLICATION SLAVE, BINLOG MONITOR, EXECUTE, CREATE VIEW, SHOW VIEW,"
    " CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER, DELETE HISTORY"
)

_Answerer = Callable[[Cursor, Mapping[str, Any]], dict[str, Any]]


def list_databases(cursor: Cursor, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"databases": [{"name", "character_set", "collate"}]}, by name."""
    cursor.execute(
        "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
        " ORDER BY SCHEMA_NAME"
    )
    rows = [row for row in cursor.fetchall() if not _is_system_database(row[0])]
    return {"databases": [{"name": name, "character_set": charset, "collate": order} for name, charset, order in rows]}


def create_databases(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"databases": [DatabaseSpec]} → {}. All of them or none. Raises ``BadRequest`` when a name is taken."""
    wanted = [DatabaseSpec.model_validate(document) for document in payload["databases"]]
    _refuse_repetition([spec.name for spec in wanted], "Database")
    for spec in wanted:
        if _has_database(cursor, spec.name):
            raise BadRequest(f"Database {spec.name} already exists.")
    made: list[str] = []
    try:
        for spec in wanted:
            _create_database(cursor, spec)
            made.append(spec.name)
    except BaseException:
        for name in made:
            cursor.execute(f"DROP DATABASE {_name(name)}")
        raise
    return {}


def delete_database(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name"} → {}. Raises ``NotFound``."""
    name = str(payload["name"])
    if _is_system_database(name) or not _has_database(cursor, name):
        raise NotFound(f"Database {name} cannot be found on the instance.")
    cursor.execute(f"DROP DATABASE {_name(name)}")
    return {}


def list_users(cursor: Cursor, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"users": [{"name", "host", "databases": [{"name"}]}]}, by name and host."""
    cursor.execute("SELECT User, Host FROM mysql.user WHERE is_role = 'N' ORDER BY User, Host")
    users = [row for row in cursor.fetchall() if row[0] not in RESERVED_USERS]
    cursor.execute("SELECT User, Host, Db FROM mysql.db ORDER BY Db")
    rights: dict[tuple[str, str], list[dict[str, str]]] = {}
    for user, host, pattern in cursor.fetchall():
        rights.setdefault((user, host), []).append({"name": _unescaped(pattern)})
    return {"users": [{"name": name, "host": host, "databases": rights.get((name, host), [])} for name, host in users]}


def create_users(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"users": [UserSpec]} → {}. All of them or none. Raises ``BadRequest`` when one exists or is reserved."""
    wanted = [UserSpec.model_validate(document) for document in payload["users"]]
    _refuse_repetition([f"{spec.name}@{spec.host}" for spec in wanted], "User")
    for spec in wanted:
        if _has_user(cursor, spec.name, spec.host):
            raise BadRequest(f"User {spec.name}@{spec.host} already exists.")
    made: list[UserSpec] = []
    try:
        for spec in wanted:
            _create_user(cursor, spec)
            made.append(spec)
    except BaseException:
        for spec in made:
            cursor.execute("DROP USER IF EXISTS %s@%s", (spec.name, spec.host))
        raise
    return {}


def delete_user(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host"} → {}. Raises ``NotFound``."""
    name, host = str(payload["name"]), str(payload.get("host") or "%")
    _require_user(cursor, name, host)
    cursor.execute("DROP USER %s@%s", (name, host))
    return {}


def change_users(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"users": [UserChange]} → {}. Passwords and names; rights stay, also under a new name.

    Raises ``NotFound`` for one that is not there and ``BadRequest`` for a new name that is taken: nothing is changed.
    """
    changes = [UserChange.model_validate(document) for document in payload["users"]]
    _refuse_repetition([f"{change.name}@{change.host}" for change in changes], "User")
    for change in changes:
        _require_user(cursor, change.name, change.host)
        if change.password_hash is not None and not _PASSWORD_HASH.fullmatch(change.password_hash):
            raise BadRequest(f"The password of user {change.name} is not given as a hash.")
        renamed = _renamed(change)
        if renamed != (change.name, change.host):
            if renamed[0] in RESERVED_USERS:
                raise BadRequest(f"The user name {renamed[0]} is reserved.")
            if _has_user(cursor, *renamed):
                raise BadRequest(f"User {renamed[0]}@{renamed[1]} already exists.")
    for change in changes:
        renamed = _renamed(change)
        if renamed != (change.name, change.host):
            cursor.execute("RENAME USER %s@%s TO %s@%s", (change.name, change.host, *renamed))
        if change.password_hash is not None:
            identified = "ALTER USER %s@%s IDENTIFIED VIA mysql_native_password USING %s"
            cursor.execute(identified, (*renamed, change.password_hash))
    return {}


def grant(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host", "databases": [name]} → {}. All rights on each. Raises ``NotFound``, ``BadRequest``."""
    account = (str(payload["name"]), str(payload["host"]))
    _require_user(cursor, *account)
    names = [str(name) for name in payload["databases"]]
    for name in names:
        if _is_system_database(name) or not _has_database(cursor, name):
            raise NotFound(f"Database {name} cannot be found on the instance.")
    for pattern in [_name(_escaped(name)).replace("%", "%%") for name in names]:
        cursor.execute(f"GRANT ALL PRIVILEGES ON {pattern}.* TO %s@%s", account)
    return {}


def revoke(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host", "database"} → {}. Every right on it. Raises ``NotFound`` where the user has none."""
    account, wanted = (str(payload["name"]), str(payload["host"])), str(payload["database"])
    _require_user(cursor, *account)
    cursor.execute("SELECT Db FROM mysql.db WHERE User = %s AND Host = %s", account)
    patterns = [row[0] for row in cursor.fetchall() if _unescaped(row[0]) == wanted]
    if not patterns:
        raise NotFound(f"User {account[0]}@{account[1]} has no rights on database {wanted}.")
    for pattern in [_name(each).replace("%", "%%") for each in patterns]:
        for rights in ("GRANT OPTION", "ALL PRIVILEGES"):  # in this order: without any right there is nothing to name
            cursor.execute(f"REVOKE {rights} ON {pattern}.* FROM %s@%s", account)
    return {}


def show_root(cursor: Cursor, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"enabled"}: whether there is a root for clients."""
    return {"enabled": _has_user(cursor, *_ROOT)}


def enable_root(cursor: Cursor, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"password_hash"} → {}. One that is there is made anew."""
    if not _PASSWORD_HASH.fullmatch(str(payload["password_hash"])):
        raise BadRequest("The password of root is not given as a hash.")
    identified = "CREATE OR REPLACE USER %s@%s IDENTIFIED VIA mysql_native_password USING %s"
    cursor.execute(identified, (*_ROOT, payload["password_hash"]))
    try:
        cursor.execute(f"GRANT {_ROOT_RIGHTS} ON *.* TO %s@%s WITH GRANT OPTION", _ROOT)
    except BaseException:
        cursor.execute("DROP USER %s@%s", _ROOT)
        raise
    return {}


def disable_root(cursor: Cursor, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {}. Raises ``NotFound`` where there is none."""
    if not _has_user(cursor, *_ROOT):
        raise NotFound("Root is not enabled.")
    cursor.execute("DROP USER %s@%s", _ROOT)
    return {}


QUESTIONS: Final[Mapping[QuestionKind, _Answerer]] = {
    QuestionKind.LIST_DATABASES: list_databases,
    QuestionKind.CREATE_DATABASES: create_databases,
    QuestionKind.DELETE_DATABASE: delete_database,
    QuestionKind.LIST_USERS: list_users,
    QuestionKind.CREATE_USERS: create_users,
    QuestionKind.DELETE_USER: delete_user,
    QuestionKind.CHANGE_USERS: change_users,
    QuestionKind.GRANT: grant,
    QuestionKind.REVOKE: revoke,
    QuestionKind.SHOW_ROOT: show_root,
    QuestionKind.ENABLE_ROOT: enable_root,
    QuestionKind.DISABLE_ROOT: disable_root,
}


def add_missing(cursor: Cursor, databases: Sequence[DatabaseSpec], users: Sequence[UserSpec]) -> None:
    """Create what is not there; what is there stays exactly as it is (contract, section 3)."""
    for database in databases:
        if not _has_database(cursor, database.name):
            _create_database(cursor, database)
    for user in users:
        if not _has_user(cursor, user.name, user.host):
            _create_user(cursor, user)


def _create_database(cursor: Cursor, spec: DatabaseSpec) -> None:
    statement = f"CREATE DATABASE {_name(spec.name)}"
    for words, value in (("CHARACTER SET", spec.character_set), ("COLLATE", spec.collate)):
        if value:
            if not _WORD.fullmatch(value):
                raise BadRequest(f"{value} is no {words.lower()}.")
            statement += f" {words} {value}"
    cursor.execute(statement)


def _create_user(cursor: Cursor, spec: UserSpec) -> None:
    """A user with every right on its databases and none beside: no FILE, SUPER, SHUTDOWN, GRANT."""
    if spec.name in RESERVED_USERS:
        raise BadRequest(f"The user name {spec.name} is reserved.")
    if not _PASSWORD_HASH.fullmatch(spec.password_hash):
        raise BadRequest(f"The password of user {spec.name} is not given as a hash.")
    # The names are part of the statement, which must not be read as a format once more.
    patterns = [_name(_escaped(name)).replace("%", "%%") for name in spec.databases]
    account = (spec.name, spec.host)
    cursor.execute("CREATE USER %s@%s IDENTIFIED VIA mysql_native_password USING %s", (*account, spec.password_hash))
    try:
        for pattern in patterns:
            cursor.execute(f"GRANT ALL PRIVILEGES ON {pattern}.* TO %s@%s", account)
    except BaseException:
        cursor.execute("DROP USER %s@%s", account)
        raise


def _has_database(cursor: Cursor, name: str) -> bool:
    if _is_system_database(name):
        return True
    return bool(cursor.execute("SELECT 1 FROM information_schema.SCHEMATA WHERE BINARY SCHEMA_NAME = %s", (name,)))


def _has_user(cursor: Cursor, name: str, host: str) -> bool:
    # Host names compare without case, user names with it: as the columns do.
    return bool(cursor.execute("SELECT 1 FROM mysql.user WHERE User = %s AND Host = %s", (name, host)))


def _require_user(cursor: Cursor, name: str, host: str) -> None:
    """Raises ``NotFound`` unless this is a user that clients made."""
    if name in RESERVED_USERS or not _has_user(cursor, name, host):
        raise NotFound(f"User {name}@{host} cannot be found on the instance.")


def _renamed(change: UserChange) -> tuple[str, str]:
    return change.new_name or change.name, change.new_host or change.host


def _is_system_database(name: str) -> bool:
    return name.lower() in SYSTEM_DATABASES or name.startswith("#mysql50#")


def _refuse_repetition(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise BadRequest(f"{what} {name} is named twice.")


def _name(name: str) -> str:
    if not name or "\0" in name:
        raise BadRequest("A name is empty or holds a character that cannot stand in a name.")
    return "`" + name.replace("`", "``") + "`"


def _escaped(name: str) -> str:
    """A database's name as GRANT wants it, where ``_`` and ``%`` are wildcards.

    Raises ``BadRequest`` for one that does not fit into the column then: unescaped it would be a pattern, and
    ``%`` would open the system's own databases.
    """
    escaped = re.sub(r"([\\_%])", r"\\\1", name)
    if len(escaped) > _GRANT_COLUMN:
        raise BadRequest(f"Rights on database {name} cannot be granted: its name holds too many of _, % and \\.")
    return escaped


def _unescaped(pattern: str) -> str:
    return re.sub(r"\\([\\_%])", r"\1", pattern)
