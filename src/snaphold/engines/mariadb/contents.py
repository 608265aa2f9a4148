"""The databases and users in a server, as documents of the agent protocol. Those of the system are hidden.

Every function takes a ``Call``, with a session of the admin account. Names are quoted here; passwords are hashes.

A call that creates or changes several things does all of it or nothing. It notes how each step is undone, and
``answered`` undoes them after a failure: in a session of its own, because a failed session may have used up its time.

Accounts are read from the base tables ``mysql.global_priv`` and ``mysql.db`` through HANDLER, which opens base tables
only and runs no view, function or trigger that a tenant may have put in their place. The view ``mysql.user`` is not
used: any root can replace it, and it cannot be read after its definer, ``mariadb.sys``, was dropped. Rows that the
server itself does not accept as accounts are ignored.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self

import structlog

from snaphold.engines.mariadb.accounts import INTERNAL_PREFIX, RESERVED_USERS, root_rights
from snaphold.engines.mariadb.session import NotATable, Session, TooMuch
from snaphold.errors import BadRequest, NotFound, Refused, SnapholdError, Unprocessable, in_full
from snaphold.protocol import DatabaseSpec, HostCallKind, UserChange, UserSpec

SYSTEM_DATABASES: Final = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
_PASSWORD_HASH: Final = re.compile(r"\*[0-9A-F]{40}")
_WORD: Final = re.compile(r"[A-Za-z0-9_]+")  # a character set or a collation
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_GRANT_COLUMN: Final = 64  # characters of mysql.db.Db
_ROOT: Final = ("root", "%")
MOST_BYTES: Final = 16 << 20  # that one call may read
MOST_NAMES: Final = 1_000  # databases, users or rights that one call may create or change
UNDO_TIMEOUT_S: Final = 20.0
_UNDO_SHARE_S: Final = 5.0  # of a call's time, kept for undoing it; never more than a third
_PLUGIN: Final = re.compile(r"[a-z0-9_]{1,64}")  # of authentication
_MOST_DATABASES: Final = 20_000
_MOST_ACCOUNTS: Final = 20_000
_MOST_GRANTS: Final = 100_000
_LONGEST_USER: Final = 128  # characters, as the columns of the system's tables have it
_LONGEST_HOST: Final = 255
_LONGEST_DATABASE: Final = 64

_log = structlog.get_logger(__name__)


_Undo = Callable[[Session], object]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One host call: the session that it uses, and how the steps done so far are undone."""

    session: Session
    series: str  # of the server: "10.11"
    undo: list[_Undo] = field(default_factory=list)  # in the order of the steps


_Answerer = Callable[[Call, Mapping[str, Any]], dict[str, Any]]


def answered(
    opened: Callable[[float], AbstractContextManager[Session]],
    kind: HostCallKind,
    payload: Mapping[str, Any],
    *,
    series: str,
    timeout_s: float,
) -> dict[str, Any]:
    """Answer a host call within ``timeout_s``. A call that fails leaves everything as it was.

    ``opened`` opens a session of the admin account for so many seconds. Raises ``Unavailable`` and ``Refused``.
    """
    deadline_s = time.monotonic() + timeout_s
    undo: list[_Undo] = []
    try:
        with opened(timeout_s - min(_UNDO_SHARE_S, timeout_s / 3)) as session:
            return HOST_CALLS[kind](Call(session=session, series=series, undo=undo), payload)
    except BaseException as error:
        if undo and (trouble := _undone(opened, undo, max(UNDO_TIMEOUT_S, deadline_s - time.monotonic()))):
            _log.error("host_call.not_undone", kind=kind.value, steps=len(undo), reason=in_full(trouble))
            error.add_note(f"and it could not be undone: {trouble}")
        raise


def _undone(
    opened: Callable[[float], AbstractContextManager[Session]], undo: list[_Undo], timeout_s: float
) -> SnapholdError | None:
    """Undo the steps, the last one first. Returns the first error, if any: the other steps are undone all the same."""
    first: SnapholdError | None = None
    try:
        with opened(timeout_s) as session:
            for step in reversed(undo):
                try:
                    step(session)
                except SnapholdError as error:
                    first = first or error
    except SnapholdError as error:
        first = first or error
    return first


def list_databases(call: Call, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"databases": [{"name", "character_set", "collate"}]}, by name."""
    rows = call.session.run(
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


def create_databases(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"databases": [DatabaseSpec]} → {}. All of them or none. Raises ``BadRequest`` when a name is taken."""
    wanted = [DatabaseSpec.model_validate(document) for document in payload["databases"]]
    _refuse_too_many(wanted, "databases")
    _refuse_repetition([spec.name for spec in wanted], "Database")
    for spec in wanted:
        if spec.name.lower() in SYSTEM_DATABASES or _has_database(call.session, spec.name):
            raise BadRequest(f"Database {spec.name} already exists.")
    for spec in wanted:
        _do(call, (_creating(spec), ()), partial(_drop_empty_database, name=spec.name))
    return {}


def delete_database(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name"} → {}. Raises ``NotFound``."""
    name = str(payload["name"])
    if _is_system_database(name) or not _has_database(call.session, name):
        raise NotFound.of("Database", name)
    call.session.run(f"DROP DATABASE {_name(name)}")
    return {}


def list_users(call: Call, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"users": [{"name", "host", "databases": [{"name"}]}]}, by name and host."""
    users = [account for account in _Accounts.read(call.session) if not _is_reserved(account[0])]
    rights: dict[tuple[str, str], list[dict[str, str]]] = {}
    for user, host, pattern in sorted(_grants(call.session), key=lambda grant: grant[2]):
        rights.setdefault((user, host), []).append({"name": _unescaped(pattern)})
    return {"users": [{"name": name, "host": host, "databases": rights.get((name, host), [])} for name, host in users]}


def create_users(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"users": [UserSpec]} → {}. All of them or none. Raises ``BadRequest`` when one exists or is reserved."""
    wanted = [UserSpec.model_validate(document) for document in payload["users"]]
    _refuse_too_many(wanted, "users")
    _refuse_repetition([f"{spec.name}@{spec.host.lower()}" for spec in wanted], "User")
    accounts = _Accounts.read(call.session)
    for spec in wanted:
        if (spec.name, spec.host) in accounts:
            raise BadRequest(f"User {spec.name}@{spec.host} already exists.")
    for spec in wanted:
        _create_user(call, spec)
    return {}


def delete_user(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host"} → {}. Raises ``NotFound``."""
    name, host = str(payload["name"]), str(payload.get("host") or "%")
    _require_user(_Accounts.read(call.session), name, host)
    call.session.run("DROP USER %s@%s", (name, host))
    return {}


def change_users(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"users": [UserChange]} → {}. Passwords and names; the rights stay, also under a new name. All changes or none.

    Raises ``NotFound`` for a user that does not exist and ``BadRequest`` for a new name that is taken.
    """
    changes = [UserChange.model_validate(document) for document in payload["users"]]
    _refuse_too_many(changes, "users")
    _refuse_repetition([f"{change.name}@{change.host.lower()}" for change in changes], "User")
    accounts = _Accounts.read(call.session)
    for change in changes:
        _require_user(accounts, change.name, change.host)
        if change.password_hash is not None and not _PASSWORD_HASH.fullmatch(change.password_hash):
            raise BadRequest(f"The password of user {change.name} is not given as a hash.")
        renamed = _renamed(change)
        if renamed != (change.name, change.host):
            if _is_reserved(renamed[0]):
                raise BadRequest(f"The user name {renamed[0]} is reserved.")
            if renamed in accounts:
                raise BadRequest(f"User {renamed[0]}@{renamed[1]} already exists.")
    for change in changes:
        renamed = _renamed(change)
        if renamed != (change.name, change.host):
            _do(
                call,
                ("RENAME USER %s@%s TO %s@%s", (change.name, change.host, *renamed)),
                _statement("RENAME USER %s@%s TO %s@%s", *renamed, change.name, change.host),
            )
        if change.password_hash is not None:
            identified = "ALTER USER %s@%s IDENTIFIED VIA mysql_native_password USING %s"
            former = accounts.authentication(change.name, change.host)
            undo = None
            if former is not None:
                undo = _statement(f"ALTER USER %s@%s IDENTIFIED VIA {former[0]} USING %s", *renamed, former[1])
            _do(call, (identified, (*renamed, change.password_hash)), undo)
    return {}


def grant(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host", "databases": [name]} → {}. All rights on each. Raises ``NotFound``, ``BadRequest``."""
    account = (str(payload["name"]), str(payload["host"]))
    names = [str(name) for name in payload["databases"]]
    _refuse_too_many(names, "databases")
    _require_user(_Accounts.read(call.session), *account)
    for name in names:
        if _is_system_database(name) or not _has_database(call.session, name):
            raise NotFound.of("Database", name)
    before = {_unescaped(pattern) for *of, pattern in _grants(call.session) if tuple(of) == account}
    for name in names:
        pattern = _name(_escaped(name)).replace("%", "%%")
        given = (f"GRANT ALL PRIVILEGES ON {pattern}.* TO %s@%s", account)
        taken = _statement(f"REVOKE ALL PRIVILEGES ON {pattern}.* FROM %s@%s", *account)
        _do(call, given, None if name in before else taken)
    return {}


def revoke(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "host", "database"} → {}. Every right on it. Raises ``NotFound`` when the user has none."""
    account, wanted = (str(payload["name"]), str(payload["host"])), str(payload["database"])
    _require_user(_Accounts.read(call.session), *account)
    grants = _grants(call.session)
    patterns = [pattern for *of, pattern in grants if tuple(of) == account and _unescaped(pattern) == wanted]
    if not patterns:
        raise NotFound(f"User {account[0]}@{account[1]} has no rights on database {wanted}.")
    for pattern in [_name(each).replace("%", "%%") for each in patterns]:
        for rights in ("GRANT OPTION", "ALL PRIVILEGES"):  # in this order: REVOKE fails for a user without any right
            call.session.run(f"REVOKE {rights} ON {pattern}.* FROM %s@%s", account)
    return {}


def show_root(call: Call, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {"enabled"}: whether a root for clients exists."""
    return {"enabled": _ROOT in _Accounts.read(call.session)}


def enable_root(call: Call, payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"password_hash"} → {}. A root that exists is replaced."""
    if not _PASSWORD_HASH.fullmatch(str(payload["password_hash"])):
        raise BadRequest("The password of root is not given as a hash.")
    identified = "CREATE OR REPLACE USER %s@%s IDENTIFIED VIA mysql_native_password USING %s"
    _do(call, (identified, (*_ROOT, payload["password_hash"])), _statement("DROP USER IF EXISTS %s@%s", *_ROOT))
    call.session.run(f"GRANT {root_rights(call.series)} ON *.* TO %s@%s WITH GRANT OPTION", _ROOT)
    return {}


def disable_root(call: Call, _payload: Mapping[str, Any]) -> dict[str, Any]:
    """{} → {}. Raises ``NotFound`` when root is not enabled."""
    if _ROOT not in _Accounts.read(call.session):
        raise NotFound("Root is not enabled.")
    call.session.run("DROP USER %s@%s", _ROOT)
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


def add_missing(session: Session, databases: Sequence[DatabaseSpec], users: Sequence[UserSpec], *, series: str) -> None:
    """Create those that do not exist. Those that exist are not changed (contract, section 3)."""
    call = Call(session=session, series=series)
    for database in databases:
        if not _has_database(session, database.name):
            session.run(_creating(database))
    accounts = _Accounts.read(session) if users else _Accounts({})
    for user in users:
        if (user.name, user.host) not in accounts:
            _create_user(call, user)


def _do(call: Call, step: tuple[str, Sequence[object]], undo: _Undo | None) -> None:
    """Run a statement that ``undo`` undoes. A statement that is cut short may have been carried out all the same."""
    if undo is not None:
        call.undo.append(undo)
    try:
        call.session.run(*step)
    except Refused:
        if undo is not None:
            call.undo.pop()
        raise


def _statement(statement: str, *arguments: object) -> _Undo:
    """A step that undoes another one by a statement."""
    return lambda session: session.run(statement, arguments)


def _drop_empty_database(session: Session, *, name: str) -> None:
    """Drop a database, unless a client has put tables into it meanwhile, or has created it."""
    if _has_database(session, name) and not session.run(f"SHOW FULL TABLES FROM {_name(name)}"):
        session.run(f"DROP DATABASE {_name(name)}")


def _creating(spec: DatabaseSpec) -> str:
    """The statement that creates a database. Raises ``BadRequest``."""
    statement = f"CREATE DATABASE {_name(spec.name)}"
    for words, value in (("CHARACTER SET", spec.character_set), ("COLLATE", spec.collate)):
        if value:
            if not _WORD.fullmatch(value):
                raise BadRequest(f"{value} is no {words.lower()}.")
            statement += f" {words} {value}"
    return statement


def _create_user(call: Call, spec: UserSpec) -> None:
    """A user with every right on its databases and no other: no FILE, SUPER, SHUTDOWN, GRANT."""
    if _is_reserved(spec.name):
        raise BadRequest(f"The user name {spec.name} is reserved.")
    if not _PASSWORD_HASH.fullmatch(spec.password_hash):
        raise BadRequest(f"The password of user {spec.name} is not given as a hash.")
    # The patterns are part of a statement with arguments, in which "%" begins a placeholder.
    patterns = [_name(_escaped(name)).replace("%", "%%") for name in spec.databases]
    account = (spec.name, spec.host)
    created = ("CREATE USER %s@%s IDENTIFIED VIA mysql_native_password USING %s", (*account, spec.password_hash))
    _do(call, created, _statement("DROP USER IF EXISTS %s@%s", *account))
    for pattern in patterns:
        call.session.run(f"GRANT ALL PRIVILEGES ON {pattern}.* TO %s@%s", account)


def _has_database(session: Session, name: str) -> bool:
    if _is_system_database(name):
        return True
    return bool(session.run("SELECT 1 FROM information_schema.SCHEMATA WHERE BINARY SCHEMA_NAME = %s", (name,)))


class _Accounts:
    """The accounts of a server, read once. Host names compare without case, user names with it, as in the server."""

    def __init__(self, found: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        self._found = found  # the facts of each account, by name and host
        self._hosts = {(name, host.lower()): host for name, host in found}

    @classmethod
    def read(cls, session: Session) -> Self:
        """Every user, without roles."""
        rows = _base_table(session, "global_priv", ("User", "Host", "Priv"), _MOST_ACCOUNTS)
        facts = {(user, host): _facts(priv) for user, host, priv in rows if _is_account(user, host)}
        return cls({account: told for account, told in facts.items() if told.get("is_role") is not True})

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Name and host of each, in this order."""
        return iter(sorted(self._found))

    def __contains__(self, account: tuple[str, str]) -> bool:
        """Whether a user of this name and host exists."""
        return (account[0], account[1].lower()) in self._hosts

    def authentication(self, name: str, host: str) -> tuple[str, str] | None:
        """Plugin and hash of a user; None for one that cannot be set in this simple form."""
        facts = self._found[name, self._hosts[name, host.lower()]]
        plugin, hashed = facts.get("plugin"), facts.get("authentication_string", "")
        if not isinstance(plugin, str) or not isinstance(hashed, str) or not _PLUGIN.fullmatch(plugin):
            return None
        return None if "auth_or" in facts else (plugin, hashed)


def _grants(session: Session) -> list[tuple[str, str, str]]:
    """Return every grant on a database: user, host, and the pattern of the database's name."""
    rows = _base_table(session, "db", ("User", "Host", "Db"), _MOST_GRANTS)
    return [row for row in rows if _is_account(row[0], row[1]) and 0 < len(row[2]) <= _LONGEST_DATABASE]


def _base_table(
    session: Session, name: str, columns: tuple[str, str, str], most_rows: int
) -> list[tuple[str, str, str]]:
    """Read these columns of a system table. Rows in which one of them is not text are skipped.

    Raises:
        Unprocessable: a client has replaced the table, or it has too many rows.
    """
    try:
        session.run(f"HANDLER mysql.{name} OPEN AS snaphold_handler")
        found, rows = session.table(f"HANDLER snaphold_handler READ FIRST LIMIT {most_rows + 1:d}", most_rows=most_rows)
    except NotATable as error:
        raise Unprocessable(f"The table mysql.{name} of the instance is not the system's own.") from error
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
    """Whether the API could have created it. A forged row may hold a terminal's control characters."""
    return len(user) <= _LONGEST_USER and 0 < len(host) <= _LONGEST_HOST and not _CONTROL.search(user + host)


def _facts(priv: str) -> Mapping[str, Any]:
    """The JSON object that describes an account; empty when it is none."""
    try:
        facts = json.loads(priv)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_reserved(name: str) -> bool:
    return name in RESERVED_USERS or name.startswith(INTERNAL_PREFIX)


def _require_user(accounts: _Accounts, name: str, host: str) -> None:
    """Raise ``NotFound`` unless a client's user of this name exists."""
    if _is_reserved(name) or (name, host) not in accounts:
        raise NotFound.of("User", f"{name}@{host}")


def _renamed(change: UserChange) -> tuple[str, str]:
    return change.new_name or change.name, change.new_host or change.host


def _is_system_database(name: str) -> bool:
    return name in SYSTEM_DATABASES or name.startswith("#mysql50#")


def _refuse_too_many(wanted: Sequence[object], what: str) -> None:
    if len(wanted) > MOST_NAMES:
        raise BadRequest(f"A request can name at most {MOST_NAMES} {what}.")


def _refuse_repetition(names: Iterable[str], what: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise BadRequest(f"{what} {name} is named twice.")


def _name(name: str) -> str:
    if not name or "\0" in name:
        raise BadRequest("A name is empty or holds a character that cannot stand in a name.")
    return "`" + name.replace("`", "``") + "`"


def _escaped(name: str) -> str:
    """Escape a database's name for GRANT, in which ``_`` and ``%`` are wildcards.

    Raises ``BadRequest`` when the result is too long for its column. Unescaped, the name would be a pattern, and ``%``
    would grant rights on the system databases.
    """
    escaped = re.sub(r"([\\_%])", r"\\\1", name)
    if len(escaped) > _GRANT_COLUMN:
        raise BadRequest(f"Rights on database {name} cannot be granted: its name holds too many of _, % and \\.")
    return escaped


def _unescaped(pattern: str) -> str:
    return re.sub(r"\\([\\_%])", r"\1", pattern)
