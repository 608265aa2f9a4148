"""The databases and users in a server, as documents of the agent protocol. What belongs to the system stays hidden.

Every function takes a session of the admin account. Names are quoted here; passwords come as hashes only.

What a tenant may have put in the place of the system's tables and views is not read: accounts come from the base tables
``mysql.global_priv`` and ``mysql.db`` through HANDLER, which opens nothing but a base table, looks again when it was
exchanged, and runs no view, function or trigger. The view ``mysql.user`` is not used: any root can replace it, and it
cannot be read where its definer, ``mariadb.sys``, was dropped. Rows that the server itself would take for no account
are left out.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from snaphold.engines.mariadb.accounts import INTERNAL_PREFIX, RESERVED_USERS, ROOT_RIGHTS
from snaphold.engines.mariadb.session import Session, TooMuch
from snaphold.errors import BadRequest, NotFound, Unprocessable
from snaphold.protocol import DatabaseSpec, HostCallKind, UserChange, UserSpec

SYSTEM_DATABASES: Final = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
_PASSWORD_HASH: Final = re.compile(r"\*[0-9A-F]{40}")
_WORD: Final = re.compile(r"[A-Za-z0-9_]+")  # a character set or a collation
_GRANT_COLUMN: Final = 64  # characters of mysql.db.Db
_ROOT: Final = ("root", "%")
MOST_BYTES: Final = 16 << 20  # of all that a question reads
_MOST_DATABASES: Final = 20_000
_MOST_ACCOUNTS: Final = 20_000
_MOST_GRANTS: Final = 100_000
_LONGEST_USER: Final = 128  # characters, as the columns of the system's tables have it
_LONGEST_HOST: Final = 255
_LONGEST_DATABASE: Final = 64

_Answerer = Callable[[Session, Mapping[str, Any]], dict[str, Any]]


def list_databases(session: Session, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"databases": [{"name", "character_set", "collate"}]}, by name."""
    rows = session.run(
        "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
        " ORDER BY SCHEMA_NAME",
        most_rows=_MOST_DATABASES,
    )
    found = [(str(name), str(charset), str(order)) for name, charset, order in rows]
    return {
        "databases": [
            {"name": name, "character_set": charset, "collate": order}
            for name, charset, order in found
            if not _is_system_database(name)
        ]
    }


def create_databases(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"databases": [DatabaseSpec]} → {}. All of them or none. Raises ``BadRequest`` when a name is taken."""
    wanted = [DatabaseSpec.model_validate(document) for document in payload["databases"]]
    _refuse_repetition([spec.name for spec in wanted], "Database")
    for spec in wanted:
        if _has_database(session, spec.name):
            raise BadRequest(f"Database {spec.name} already exists.")
    made: list[str] = []
    try:
        for spec in wanted:
            _create_database(session, spec)
            made.append(spec.name)
    except BaseException:
        for name in made:
            session.run(f"DROP DATABASE {_name(name)}")
        raise
    return {}


def delete_database(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name"} → {}. Raises ``NotFound``."""
    name = str(payload["name"])
    if _is_system_database(name) or not _has_database(session, name):
        raise NotFound.of("Database", name)
    session.run(f"DROP DATABASE {_name(name)}")
    return {}


def list_users(session: Session, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"users": [{"name", "host", "databases": [{"name"}]}]}, by name and host."""
    users = [account for account in _accounts(session) if not _is_reserved(account[0])]
    rights: dict[tuple[str, str], list[dict[str, str]]] = {}
    for user, host, pattern in sorted(_grants(session), key=lambda grant: grant[2]):
        rights.setdefault((user, host), []).append({"name": _unescaped(pattern)})
    return {"users": [{"name": name, "host": host, "databases": rights.get((name, host), [])} for name, host in users]}


def create_users(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"users": [UserSpec]} → {}. All of them or none. Raises ``BadRequest`` when one exists or is reserved."""
    wanted = [UserSpec.model_validate(document) for document in payload["users"]]
    _refuse_repetition([f"{spec.name}@{spec.host}" for spec in wanted], "User")
    for spec in wanted:
        if _has_user(session, spec.name, spec.host):
            raise BadRequest(f"User {spec.name}@{spec.host} already exists.")
    made: list[UserSpec] = []
    try:
        for spec in wanted:
            _create_user(session, spec)
            made.append(spec)
    except BaseException:
        for spec in made:
            session.run("DROP USER IF EXISTS %s@%s", (spec.name, spec.host))
        raise
    return {}


def delete_user(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host"} → {}. Raises ``NotFound``."""
    name, host = str(payload["name"]), str(payload.get("host") or "%")
    _require_user(session, name, host)
    session.run("DROP USER %s@%s", (name, host))
    return {}


def change_users(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"users": [UserChange]} → {}. Passwords and names; rights stay, also under a new name.

    Raises ``NotFound`` for one that is not there and ``BadRequest`` for a new name that is taken: nothing is changed.
    """
    changes = [UserChange.model_validate(document) for document in payload["users"]]
    _refuse_repetition([f"{change.name}@{change.host}" for change in changes], "User")
    for change in changes:
        _require_user(session, change.name, change.host)
        if change.password_hash is not None and not _PASSWORD_HASH.fullmatch(change.password_hash):
            raise BadRequest(f"The password of user {change.name} is not given as a hash.")
        renamed = _renamed(change)
        if renamed != (change.name, change.host):
            if _is_reserved(renamed[0]):
                raise BadRequest(f"The user name {renamed[0]} is reserved.")
            if _has_user(session, *renamed):
                raise BadRequest(f"User {renamed[0]}@{renamed[1]} already exists.")
    for change in changes:
        renamed = _renamed(change)
        if renamed != (change.name, change.host):
            session.run("RENAME USER %s@%s TO %s@%s", (change.name, change.host, *renamed))
        if change.password_hash is not None:
            identified = "ALTER USER %s@%s IDENTIFIED VIA mysql_native_password USING %s"
            session.run(identified, (*renamed, change.password_hash))
    return {}


def grant(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host", "databases": [name]} → {}. All rights on each. Raises ``NotFound``, ``BadRequest``."""
    account = (str(payload["name"]), str(payload["host"]))
    _require_user(session, *account)
    names = [str(name) for name in payload["databases"]]
    for name in names:
        if _is_system_database(name) or not _has_database(session, name):
            raise NotFound.of("Database", name)
    for pattern in [_name(_escaped(name)).replace("%", "%%") for name in names]:
        session.run(f"GRANT ALL PRIVILEGES ON {pattern}.* TO %s@%s", account)
    return {}


def revoke(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host", "database"} → {}. Every right on it. Raises ``NotFound`` where the user has none."""
    account, wanted = (str(payload["name"]), str(payload["host"])), str(payload["database"])
    _require_user(session, *account)
    patterns = [pattern for *of, pattern in _grants(session) if tuple(of) == account and _unescaped(pattern) == wanted]
    if not patterns:
        raise NotFound(f"User {account[0]}@{account[1]} has no rights on database {wanted}.")
    for pattern in [_name(each).replace("%", "%%") for each in patterns]:
        for rights in ("GRANT OPTION", "ALL PRIVILEGES"):  # in this order: without any right there is nothing to name
            session.run(f"REVOKE {rights} ON {pattern}.* FROM %s@%s", account)
    return {}


def show_root(session: Session, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"enabled"}: whether there is a root for clients."""
    return {"enabled": _has_user(session, *_ROOT)}


def enable_root(session: Session, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"password_hash"} → {}. One that is there is made anew."""
    if not _PASSWORD_HASH.fullmatch(str(payload["password_hash"])):
        raise BadRequest("The password of root is not given as a hash.")
    identified = "CREATE OR REPLACE USER %s@%s IDENTIFIED VIA mysql_native_password USING %s"
    session.run(identified, (*_ROOT, payload["password_hash"]))
    try:
        session.run(f"GRANT {ROOT_RIGHTS} ON *.* TO %s@%s WITH GRANT OPTION", _ROOT)
    except BaseException:
        session.run("DROP USER %s@%s", _ROOT)
        raise
    return {}


def disable_root(session: Session, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {}. Raises ``NotFound`` where there is none."""
    if not _has_user(session, *_ROOT):
        raise NotFound("Root is not enabled.")
    session.run("DROP USER %s@%s", _ROOT)
    return {}


HOST_CALLS: Final[Mapping[HostCallKind, _Answerer]] = {
    HostCallKind.LIST_DATABASES: list_databases,
    HostCallKind.CREATE_DATABASES: create_databases,
    HostCallKind.DELETE_DATABASE: delete_database,
    HostCallKind.LIST_USERS: list_users,
    HostCallKind.CREATE_USERS: create_users,
    HostCallKind.DELETE_USER: delete_user,
    HostCallKind.CHANGE_USERS: change_users,
    HostCallKind.GRANT: grant,
    HostCallKind.REVOKE: revoke,
    HostCallKind.SHOW_ROOT: show_root,
    HostCallKind.ENABLE_ROOT: enable_root,
    HostCallKind.DISABLE_ROOT: disable_root,
}


def add_missing(session: Session, databases: Sequence[DatabaseSpec], users: Sequence[UserSpec]) -> None:
    """Create what is not there; what is there stays exactly as it is (contract, section 3)."""
    for database in databases:
        if not _has_database(session, database.name):
            _create_database(session, database)
    for user in users:
        if not _has_user(session, user.name, user.host):
            _create_user(session, user)


def _create_database(session: Session, spec: DatabaseSpec) -> None:
    statement = f"CREATE DATABASE {_name(spec.name)}"
    for words, value in (("CHARACTER SET", spec.character_set), ("COLLATE", spec.collate)):
        if value:
            if not _WORD.fullmatch(value):
                raise BadRequest(f"{value} is no {words.lower()}.")
            statement += f" {words} {value}"
    session.run(statement)


def _create_user(session: Session, spec: UserSpec) -> None:
    """A user with every right on its databases and none beside: no FILE, SUPER, SHUTDOWN, GRANT."""
    if _is_reserved(spec.name):
        raise BadRequest(f"The user name {spec.name} is reserved.")
    if not _PASSWORD_HASH.fullmatch(spec.password_hash):
        raise BadRequest(f"The password of user {spec.name} is not given as a hash.")
    # The names are part of the statement, which must not be read as a format once more.
    patterns = [_name(_escaped(name)).replace("%", "%%") for name in spec.databases]
    account = (spec.name, spec.host)
    session.run("CREATE USER %s@%s IDENTIFIED VIA mysql_native_password USING %s", (*account, spec.password_hash))
    try:
        for pattern in patterns:
            session.run(f"GRANT ALL PRIVILEGES ON {pattern}.* TO %s@%s", account)
    except BaseException:
        session.run("DROP USER %s@%s", account)
        raise


def _has_database(session: Session, name: str) -> bool:
    if _is_system_database(name):
        return True
    return bool(session.run("SELECT 1 FROM information_schema.SCHEMATA WHERE BINARY SCHEMA_NAME = %s", (name,)))


def _has_user(session: Session, name: str, host: str) -> bool:
    # Host names compare without case, user names with it: as the server does.
    return any(account[0] == name and account[1].lower() == host.lower() for account in _accounts(session))


def _accounts(session: Session) -> list[tuple[str, str]]:
    """Name and host of every user, in this order, without roles."""
    rows = _base_table(session, "global_priv", ("User", "Host", "Priv"), _MOST_ACCOUNTS)
    return sorted((user, host) for user, host, priv in rows if _is_account(user, host) and not _is_role(priv))


def _grants(session: Session) -> list[tuple[str, str, str]]:
    """Every right of a user on a database: its name, its host, and the pattern of the database's name."""
    rows = _base_table(session, "db", ("User", "Host", "Db"), _MOST_GRANTS)
    return [row for row in rows if _is_account(row[0], row[1]) and 0 < len(row[2]) <= _LONGEST_DATABASE]


def _base_table(
    session: Session, name: str, columns: tuple[str, str, str], most_rows: int
) -> list[tuple[str, str, str]]:
    """These columns of one of the system's base tables; rows are left out where one of them is no text.

    Raises:
        Unprocessable: a client has put something else in its place, or more rows into it than are listed.
    """
    session.run(f"HANDLER mysql.{name} OPEN AS snaphold_handler")
    try:
        found, rows = session.table(f"HANDLER snaphold_handler READ FIRST LIMIT {most_rows + 1:d}", most_rows=most_rows)
    except TooMuch as error:
        raise Unprocessable(f"The table mysql.{name} of the instance is too large: {error}.") from error
    session.run("HANDLER snaphold_handler CLOSE")
    try:
        places = [found.index(column) for column in columns]
    except ValueError as error:
        raise Unprocessable(f"The table mysql.{name} of the instance is not the system's own.") from error
    chosen = [tuple(row[place] for place in places) for row in rows]
    return [(one, two, three) for one, two, three in chosen if all(isinstance(text, str) for text in (one, two, three))]


def _is_account(user: str, host: str) -> bool:
    return len(user) <= _LONGEST_USER and 0 < len(host) <= _LONGEST_HOST


def _is_role(priv: str) -> bool:
    """Whether the JSON of an account says so; what is no JSON is no role either."""
    try:
        facts = json.loads(priv)
    except (ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.get("is_role") is True


def _is_reserved(name: str) -> bool:
    return name in RESERVED_USERS or name.startswith(INTERNAL_PREFIX)


def _require_user(session: Session, name: str, host: str) -> None:
    """Raises ``NotFound`` unless this is a user that clients made."""
    if _is_reserved(name) or not _has_user(session, name, host):
        raise NotFound.of("User", f"{name}@{host}")


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
