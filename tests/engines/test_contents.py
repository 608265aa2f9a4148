"""Questions about what is in a server: databases and users, on the real engine."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import pymysql
import pytest

from snaphold.config import Settings
from snaphold.engines.mariadb.accounts import ROOT_RIGHTS, native_hash
from snaphold.engines.mariadb.contents import UNDO_TIMEOUT_S, answered
from snaphold.engines.mariadb.session import Session, session
from snaphold.errors import BadRequest, NotFound, Unavailable, Unprocessable
from snaphold.host.servers import Servers
from snaphold.protocol import HostCallKind, InstanceResult
from tests.support.instances import connect, instance_spec, query, superuser, user_spec
from tests.support.servers import open_servers

pytestmark = pytest.mark.engine

ODD_NAMES = ["under_score", "per%cent", "back`tick", "quo'te\"s", "back\\slash", "ümläut", "dash-and space", "a_" * 21]


class Asked:
    """One instance, and what it answers."""

    def __init__(self, servers: Servers) -> None:
        self.spec = instance_spec()
        self.servers = servers
        self.result: InstanceResult = servers.create(self.spec, 1)

    def ask(self, kind: HostCallKind, deadline_s: float = 15, **payload: object) -> dict[str, object]:
        """Ask it."""
        return self.servers.ask(self.spec.id, kind, payload, deadline_s=deadline_s)

    def users(self) -> dict[str, list[str]]:
        """Who is there, as ``name@host``, with which databases."""
        listed = self.ask(HostCallKind.LIST_USERS)["users"]
        assert isinstance(listed, list)
        return {f"{user['name']}@{user['host']}": [db["name"] for db in user["databases"]] for user in listed}

    def databases(self) -> list[str]:
        """The names of the databases."""
        listed = self.ask(HostCallKind.LIST_DATABASES)["databases"]
        assert isinstance(listed, list)
        return [database["name"] for database in listed]


@pytest.fixture
def asked(host_settings: Settings) -> Iterator[Asked]:
    """An instance with the database ``shop`` and its user ``app``."""
    servers = open_servers(host_settings)
    asked = Asked(servers)
    yield asked
    servers.delete(asked.spec.id)


def test_only_what_is_the_customers_is_listed(asked: Asked) -> None:
    """System databases, system users and the host's own accounts stay hidden."""
    assert asked.ask(HostCallKind.LIST_DATABASES) == {
        "databases": [{"name": "shop", "character_set": "utf8mb4", "collate": "utf8mb4_general_ci"}]
    }
    assert asked.users() == {"app@%": ["shop"]}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_quoted(asked: Asked, name: str) -> None:
    """Whatever a database or a user is called, it is created, granted, listed and deleted under exactly this name."""
    user = name[:16]
    asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": name}])
    asked.ask(HostCallKind.CREATE_USERS, users=[user_spec(user, "pw 2'", [name]).model_dump()])

    assert name in asked.databases()
    assert asked.users()[f"{user}@%"] == [name]
    with closing(connect(asked.result, user, "pw 2'", name)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT)")

    asked.ask(HostCallKind.DELETE_USER, name=user, host="%")
    asked.ask(HostCallKind.DELETE_DATABASE, name=name)
    assert asked.databases() == ["shop"]
    assert list(asked.users()) == ["app@%"]


def test_a_grant_is_for_the_one_database(asked: Asked) -> None:
    """``_`` in a name is no wildcard: a user of ``a_b`` does not get into ``axb``."""
    asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": "a_b"}, {"name": "axb"}])
    asked.ask(HostCallKind.CREATE_USERS, users=[user_spec("u", "p", ["a_b"]).model_dump()])
    assert query(asked.result, "SELECT 1", "u", "p", "a_b") == [(1,)]
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        connect(asked.result, "u", "p", "axb")


@pytest.mark.parametrize("name", ["%" * 33, "a_" * 32, "\\" * 33])
def test_a_name_that_cannot_be_escaped_is_granted_to_nobody(asked: Asked, name: str) -> None:
    """A name that is too long once its wildcards are escaped is no pattern in a grant: its user is not even made."""
    with pytest.raises(BadRequest, match="cannot be granted"):
        asked.ask(HostCallKind.CREATE_USERS, users=[user_spec("u", "p", ["shop", name]).model_dump()])
    assert asked.users() == {"app@%": ["shop"]}
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        query(asked.result, "SELECT * FROM mysql.user", "u", "p")


def test_a_taken_name_is_refused_and_the_others_are_not_made(asked: Asked) -> None:
    """All of a request or none of it; the message names what exists."""
    with pytest.raises(BadRequest, match=r"Database shop already exists\."):
        asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": "new"}, {"name": "shop"}])
    users = [user_spec("new", "p", []).model_dump(), user_spec("app", "p", []).model_dump()]
    with pytest.raises(BadRequest, match=r"User app@% already exists\."):
        asked.ask(HostCallKind.CREATE_USERS, users=users)
    with pytest.raises(BadRequest, match=r"Database mysql already exists\."):
        asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": "mysql"}])
    with pytest.raises(BadRequest, match="named twice"):
        asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": "new"}, {"name": "new"}])
    databases = [{"name": "new"}, {"name": "newer", "character_set": "klingon"}]
    with pytest.raises(BadRequest):
        asked.ask(HostCallKind.CREATE_DATABASES, databases=databases)

    assert asked.databases() == ["shop"]
    assert asked.users() == {"app@%": ["shop"]}
    assert query(asked.result, "SELECT 1") == [(1,)]


def test_the_same_user_name_may_come_from_several_hosts(asked: Asked) -> None:
    """A user is a name and a host; deleting one leaves the other."""
    asked.ask(HostCallKind.CREATE_USERS, users=[user_spec("app", "p", ["shop"], host="10.0.0.1").model_dump()])
    assert asked.users() == {"app@10.0.0.1": ["shop"], "app@%": ["shop"]}
    asked.ask(HostCallKind.DELETE_USER, name="app", host="%")
    assert asked.users() == {"app@10.0.0.1": ["shop"]}


def test_users_get_other_passwords_names_and_hosts(asked: Asked) -> None:
    """A changed user logs in as it is now and no more as it was; its rights go with it. All changes or none."""
    query(asked.result, "CREATE TABLE shop.t (id INT)")
    change = {"name": "app", "host": "%", "new_name": "us'er%", "new_host": "127.%"}
    asked.ask(HostCallKind.CHANGE_USERS, users=[{**change, "password_hash": native_hash("n%w'")}])
    assert asked.users() == {"us'er%@127.%": ["shop"]}
    assert query(asked.result, "SELECT * FROM shop.t", "us'er%", "n%w'") == []
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        query(asked.result, "SELECT 1")
    asked.ask(HostCallKind.CREATE_USERS, users=[user_spec("b", "p", []).model_dump()])
    renamed = {"name": "b", "new_name": "c"}
    for other, error in (
        ({"name": "nobody", "new_name": "d"}, NotFound),
        ({"name": "root", "password_hash": native_hash("p")}, NotFound),
        ({"name": "us'er%", "host": "127.%", "new_name": "b", "new_host": "%"}, BadRequest),
        ({"name": "us'er%", "host": "127.%", "new_name": "root"}, BadRequest),
        ({"name": "us'er%", "host": "127.%", "password_hash": "p"}, BadRequest),
    ):
        with pytest.raises(error):
            asked.ask(HostCallKind.CHANGE_USERS, users=[renamed, other])
    assert asked.users() == {"b@%": [], "us'er%@127.%": ["shop"]}


@pytest.mark.parametrize("name", ["plain", "a_b", "per%cent", "back`tick"])
def test_rights_are_given_and_taken(asked: Asked, name: str) -> None:
    """A grant opens exactly the database that it names, and revoking closes exactly that one."""
    asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": name}, {"name": "axb"}])
    asked.ask(HostCallKind.GRANT, name="app", host="%", databases=[name])
    assert asked.users() == {"app@%": sorted(["shop", name])}
    table = f"`{name.replace('`', '``')}`.t"
    query(asked.result, f"CREATE TABLE {table} (id INT)")
    with pytest.raises(pymysql.err.OperationalError, match="command denied"):
        query(asked.result, "CREATE TABLE axb.t (id INT)")
    asked.ask(HostCallKind.REVOKE, name="app", host="%", database=name)
    assert asked.users() == {"app@%": ["shop"]}
    with pytest.raises(pymysql.err.OperationalError, match="command denied"):
        query(asked.result, f"SELECT * FROM {table}")
    for kind, payload in (
        (HostCallKind.GRANT, {"name": "app", "databases": ["shop", "nothing"]}),
        (HostCallKind.GRANT, {"name": "app", "databases": ["mysql"]}),
        (HostCallKind.GRANT, {"name": "nobody", "databases": ["shop"]}),
        (HostCallKind.REVOKE, {"name": "app", "database": name}),
        (HostCallKind.REVOKE, {"name": "root", "database": "shop"}),
    ):
        with pytest.raises(NotFound):
            asked.ask(kind, host="%", **payload)


def test_root_may_all_but_file_super_and_shutdown(asked: Asked) -> None:
    """Root owns data and users and can hand its rights on; files and the server itself are closed to it."""
    assert asked.ask(HostCallKind.SHOW_ROOT) == {"enabled": False}
    with pytest.raises(NotFound):
        asked.ask(HostCallKind.DISABLE_ROOT)
    for password in ("first", "second"):
        asked.ask(HostCallKind.ENABLE_ROOT, password_hash=native_hash(password))
    assert asked.ask(HostCallKind.SHOW_ROOT) == {"enabled": True}
    assert asked.users() == {"app@%": ["shop"]}

    def as_root(statement: str) -> object:
        return query(asked.result, statement, "root", "second")

    as_root("CREATE DATABASE own")
    as_root("CREATE USER helper IDENTIFIED BY 'p'")
    as_root("GRANT SELECT, CREATE ON own.* TO helper")
    query(asked.result, "CREATE TABLE own.t (id INT)", "helper", "p")
    (grants,) = [row[0] for row in query(asked.result, "SHOW GRANTS", "root", "second")]
    given = set(grants.removeprefix("GRANT ").partition(" ON ")[0].split(", "))
    assert given == set(ROOT_RIGHTS.split(", "))
    assert given & {"FILE", "SUPER", "SHUTDOWN", "ALL PRIVILEGES", "CONNECTION ADMIN", "READ_ONLY ADMIN"} == set()
    assert "WITH GRANT OPTION" in grants
    for statement in (
        "SHUTDOWN",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT LOAD_FILE('/etc/hostname') INTO OUTFILE '/tmp/x'",
        "SET GLOBAL max_connections = 1",
        "GRANT SUPER ON *.* TO helper",
        "KILL 1",
    ):
        with pytest.raises(pymysql.err.MySQLError, match=r"(?i)denied|not owner|unknown thread"):
            as_root(statement)
    asked.ask(HostCallKind.DISABLE_ROOT)
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        as_root("SELECT 1")


@pytest.mark.parametrize("name", ["root", "snaphold_admin", "snaphold_backup", "mariadb.sys", "mysql"])
def test_reserved_users_are_neither_made_nor_deleted(asked: Asked, name: str) -> None:
    """The host's own accounts and the system's cannot be replaced by a request, from whatever host they would come."""
    with pytest.raises(BadRequest, match="reserved"):
        asked.ask(HostCallKind.CREATE_USERS, users=[user_spec(name, "p", [], host="10.0.0.1").model_dump()])
    with pytest.raises(NotFound):
        asked.ask(HostCallKind.DELETE_USER, name=name, host="localhost")
    assert asked.users() == {"app@%": ["shop"]}


def test_what_is_not_there_cannot_be_deleted(asked: Asked) -> None:
    """Unknown and system ones are missing alike."""
    for name in ("nothing", "mysql", "sys", "information_schema"):
        with pytest.raises(NotFound):
            asked.ask(HostCallKind.DELETE_DATABASE, name=name)
    with pytest.raises(NotFound):
        asked.ask(HostCallKind.DELETE_USER, name="app", host="10.9.9.9")


def test_a_clients_lock_ends_the_wait_in_time(asked: Asked) -> None:
    """A database that a client has locked is not dropped within the deadline; that is said, and nothing is lost."""
    query(asked.result, "CREATE TABLE shop.t (id INT)")
    with closing(connect(asked.result)) as client, client.cursor() as cursor:
        cursor.execute("LOCK TABLES shop.t WRITE")
        with pytest.raises(Unprocessable, match="A client's lock is in the way"):
            asked.ask(HostCallKind.DELETE_DATABASE, deadline_s=2, name="shop")
    assert asked.databases() == ["shop"]


class Cut:
    """A session that runs out of time once it has run so many statements; the last one is carried out all the same."""

    def __init__(self, session: Session, left: int) -> None:
        self._session, self._left = session, left

    def run(self, statement: str, *arguments: Any, **named: Any) -> list[tuple[Any, ...]]:
        """The rows, while there is time."""
        if self._left < 0:
            raise Unavailable("the database server does not answer")
        rows = self._session.run(statement, *arguments, **named)
        self._left -= 1
        if self._left < 0:
            raise Unavailable("the database server does not answer")
        return rows

    def table(self, statement: str, **named: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
        """As the session."""
        return self._session.table(statement, **named)


@pytest.mark.parametrize("statements", [10, 13])
@pytest.mark.parametrize("kind", [HostCallKind.CREATE_DATABASES, HostCallKind.CREATE_USERS])
def test_what_runs_out_of_time_is_undone(asked: Asked, kind: HostCallKind, statements: int) -> None:
    """A request that its deadline ends leaves nothing behind: it is undone in a session of its own."""
    files = asked.servers.records.directory(asked.spec.id)
    sessions = []

    @contextmanager
    def opened(timeout_s: float) -> Iterator[Session]:
        sessions.append(timeout_s)
        with session(files.admin_file, files.socket, timeout_s=timeout_s) as real:
            yield cast("Session", Cut(real, statements)) if len(sessions) == 1 else real

    payload = {
        "databases": [{"name": f"db{number}"} for number in range(9)],
        "users": [user_spec(f"u{number}", "p", ["shop"]).model_dump() for number in range(9)],
    }
    with pytest.raises(Unavailable):
        answered(opened, kind, payload, series="10.11", timeout_s=9)
    assert sessions == [6, UNDO_TIMEOUT_S]
    assert (asked.databases(), asked.users()) == (["shop"], {"app@%": ["shop"]})


def test_a_step_that_fails_undoes_the_others(asked: Asked) -> None:
    """Of several changes or grants, the first is taken back when a later one is refused."""
    app, other = {"name": "app", "host": "%"}, {"name": "other", "host": "%"}
    asked.ask(HostCallKind.CREATE_USERS, users=[user_spec("other", "p", []).model_dump()])
    changes = [{**app, "new_name": "new", "password_hash": native_hash("q")}, {**other, "new_name": "x" * 129}]
    with pytest.raises(BadRequest):
        asked.ask(HostCallKind.CHANGE_USERS, users=changes)
    assert asked.users() == {"app@%": ["shop"], "other@%": []}
    assert query(asked.result, "SELECT 1") == [(1,)]  # with the former password
    unfit = "%" * 33
    asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": "more"}, {"name": unfit}])
    with pytest.raises(BadRequest, match="cannot be granted"):
        asked.ask(HostCallKind.GRANT, name="other", host="%", databases=["more", unfit])
    assert asked.users() == {"app@%": ["shop"], "other@%": []}


def test_a_request_names_no_more_than_fits(asked: Asked) -> None:
    """Too many databases or users are refused at once, with how many a request may name."""
    with pytest.raises(BadRequest, match="at most 1000 databases"):
        asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": f"db{number}"} for number in range(15_000)])
    with pytest.raises(BadRequest, match="at most 1000 users"):
        asked.ask(HostCallKind.CREATE_USERS, users=[user_spec(f"u{n}", "p", []).model_dump() for n in range(1001)])


def test_many_accounts_are_read_once(asked: Asked) -> None:
    """In a server with 2,000 accounts a request may create 500 users and change them: the accounts are read once."""
    asked.servers.access(asked.spec.id).administer(
        "INSERT INTO mysql.global_priv SELECT '%', CONCAT('there', seq), JSON_OBJECT('note', REPEAT('x', 300))"
        " FROM shop.seq_1_to_2000",
        30,
    )
    users = [user_spec(f"new{number}", "p", []).model_dump() for number in range(500)]
    asked.ask(HostCallKind.CREATE_USERS, deadline_s=120, users=users)
    changes = [{"name": f"new{number}", "host": "%", "new_name": f"changed{number}"} for number in range(500)]
    asked.ask(HostCallKind.CHANGE_USERS, deadline_s=120, users=changes)
    names = asked.users()
    assert len(names) == 2501
    assert "changed499@%" in names


def test_a_database_is_the_systems_by_its_exact_name(asked: Asked) -> None:
    """A client's own database ``MySQL`` is another one than ``mysql``: it is listed, and can be deleted."""
    asked.servers.access(asked.spec.id).administer("CREATE DATABASE MySQL", 10)
    assert asked.databases() == ["MySQL", "shop"]
    asked.ask(HostCallKind.DELETE_DATABASE, name="MySQL")
    assert asked.databases() == ["shop"]


def test_forged_accounts_are_not_listed(asked: Asked) -> None:
    """A row of the system's table with a control character in its name or host is no user that a client can have."""
    asked.servers.access(asked.spec.id).administer(
        "INSERT INTO mysql.global_priv VALUES ('%', 'a\x1b[2Jb', '{}'), ('%', 'a\nb', '{}'), ('h\x7f', 'c', '{}')", 10
    )
    assert asked.users() == {"app@%": ["shop"]}


def test_what_a_client_has_set_is_the_reason(asked: Asked) -> None:
    """An init_connect that fails ends the service's connections too: the answer says so, not that nobody answers."""
    administer = superuser(asked.servers, asked.spec.id)
    administer("SET GLOBAL init_connect = 'nonsense'", 10)
    with pytest.raises(Unprocessable, match="init_connect fails"):
        asked.ask(HostCallKind.LIST_USERS)
    administer("SET GLOBAL init_connect = ''", 10)
    assert asked.users() == {"app@%": ["shop"]}


def test_a_silent_server_is_unavailable(asked: Asked) -> None:
    """A server that does not run answers no question, and the caller learns it at once."""
    asked.servers.stop(asked.spec.id)
    with pytest.raises(Unavailable):
        asked.ask(HostCallKind.LIST_USERS)


def test_many_questions_at_once_are_answered(asked: Asked) -> None:
    """Questions do not wait for each other, and each sees what an earlier one did."""
    failures: list[BaseException] = []

    def create(number: int) -> None:
        try:
            asked.ask(HostCallKind.CREATE_DATABASES, databases=[{"name": f"db{number}"}])
            assert f"db{number}" in asked.databases()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(asked.databases()) == 9
