"""Questions about what is in a server: databases and users, on the real engine."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pymysql
import pytest

from snaphold.config import Settings
from snaphold.errors import BadRequest, NotFound, Unavailable, Unprocessable
from snaphold.host.servers import Servers
from snaphold.protocol import InstanceResult, QuestionKind
from tests.support.instances import connect, instance_spec, query, user_spec

pytestmark = pytest.mark.engine

ODD_NAMES = ["under_score", "per%cent", "back`tick", "quo'te\"s", "back\\slash", "ümläut", "dash-and space", "a_" * 21]


class Asked:
    """One instance, and what it answers."""

    def __init__(self, servers: Servers) -> None:
        self.spec = instance_spec()
        self.servers = servers
        self.result: InstanceResult = servers.create(self.spec, 1)

    def ask(self, kind: QuestionKind, deadline_s: float = 15, **payload: object) -> dict[str, object]:
        """Ask it."""
        return self.servers.ask(self.spec.id, kind, payload, deadline_s=deadline_s)

    def users(self) -> dict[str, list[str]]:
        """Who is there, as ``name@host``, with which databases."""
        listed = self.ask(QuestionKind.LIST_USERS)["users"]
        assert isinstance(listed, list)
        return {f"{user['name']}@{user['host']}": [db["name"] for db in user["databases"]] for user in listed}

    def databases(self) -> list[str]:
        """The names of the databases."""
        listed = self.ask(QuestionKind.LIST_DATABASES)["databases"]
        assert isinstance(listed, list)
        return [database["name"] for database in listed]


@pytest.fixture
def asked(host_settings: Settings) -> Iterator[Asked]:
    """An instance with the database ``shop`` and its user ``app``."""
    servers = Servers(host_settings)
    asked = Asked(servers)
    yield asked
    servers.delete(asked.spec.id)


def test_only_what_is_the_customers_is_listed(asked: Asked) -> None:
    """System databases, system users and the host's own accounts stay hidden."""
    assert asked.ask(QuestionKind.LIST_DATABASES) == {
        "databases": [{"name": "shop", "character_set": "utf8mb4", "collate": "utf8mb4_general_ci"}]
    }
    assert asked.users() == {"app@%": ["shop"]}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_is_quoted(asked: Asked, name: str) -> None:
    """Whatever a database or a user is called, it is created, granted, listed and deleted under exactly this name."""
    user = name[:16]
    asked.ask(QuestionKind.CREATE_DATABASES, databases=[{"name": name}])
    asked.ask(QuestionKind.CREATE_USERS, users=[user_spec(user, "pw 2'", [name]).model_dump()])

    assert name in asked.databases()
    assert asked.users()[f"{user}@%"] == [name]
    with closing(connect(asked.result, user, "pw 2'", name)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT)")

    asked.ask(QuestionKind.DELETE_USER, name=user, host="%")
    asked.ask(QuestionKind.DELETE_DATABASE, name=name)
    assert asked.databases() == ["shop"]
    assert list(asked.users()) == ["app@%"]


def test_a_grant_is_for_the_one_database(asked: Asked) -> None:
    """``_`` in a name is no wildcard: a user of ``a_b`` does not get into ``axb``."""
    asked.ask(QuestionKind.CREATE_DATABASES, databases=[{"name": "a_b"}, {"name": "axb"}])
    asked.ask(QuestionKind.CREATE_USERS, users=[user_spec("u", "p", ["a_b"]).model_dump()])
    assert query(asked.result, "SELECT 1", "u", "p", "a_b") == [(1,)]
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        connect(asked.result, "u", "p", "axb")


@pytest.mark.parametrize("name", ["%" * 33, "a_" * 32, "\\" * 33])
def test_a_name_that_cannot_be_escaped_is_granted_to_nobody(asked: Asked, name: str) -> None:
    """A name that is too long once its wildcards are escaped is no pattern in a grant: its user is not even made."""
    with pytest.raises(BadRequest, match="cannot be granted"):
        asked.ask(QuestionKind.CREATE_USERS, users=[user_spec("u", "p", ["shop", name]).model_dump()])
    assert asked.users() == {"app@%": ["shop"]}
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        query(asked.result, "SELECT * FROM mysql.user", "u", "p")


def test_a_taken_name_is_refused_and_the_others_are_not_made(asked: Asked) -> None:
    """All of a request or none of it; the message names what exists."""
    with pytest.raises(BadRequest, match=r"Database shop already exists\."):
        asked.ask(QuestionKind.CREATE_DATABASES, databases=[{"name": "new"}, {"name": "shop"}])
    users = [user_spec("new", "p", []).model_dump(), user_spec("app", "p", []).model_dump()]
    with pytest.raises(BadRequest, match=r"User app@% already exists\."):
        asked.ask(QuestionKind.CREATE_USERS, users=users)
    with pytest.raises(BadRequest, match=r"Database mysql already exists\."):
        asked.ask(QuestionKind.CREATE_DATABASES, databases=[{"name": "mysql"}])
    with pytest.raises(BadRequest, match="named twice"):
        asked.ask(QuestionKind.CREATE_DATABASES, databases=[{"name": "new"}, {"name": "new"}])
    databases = [{"name": "new"}, {"name": "newer", "character_set": "klingon"}]
    with pytest.raises(BadRequest):
        asked.ask(QuestionKind.CREATE_DATABASES, databases=databases)

    assert asked.databases() == ["shop"]
    assert asked.users() == {"app@%": ["shop"]}
    assert query(asked.result, "SELECT 1") == [(1,)]


def test_the_same_user_name_may_come_from_several_hosts(asked: Asked) -> None:
    """A user is a name and a host; deleting one leaves the other."""
    asked.ask(QuestionKind.CREATE_USERS, users=[user_spec("app", "p", ["shop"], host="10.0.0.1").model_dump()])
    assert asked.users() == {"app@10.0.0.1": ["shop"], "app@%": ["shop"]}
    asked.ask(QuestionKind.DELETE_USER, name="app", host="%")
    assert asked.users() == {"app@10.0.0.1": ["shop"]}


@pytest.mark.parametrize("name", ["root", "snaphold_admin", "snaphold_backup", "mariadb.sys", "mysql"])
def test_reserved_users_are_neither_made_nor_deleted(asked: Asked, name: str) -> None:
    """The host's own accounts and the system's cannot be replaced by a request, from whatever host they would come."""
    with pytest.raises(BadRequest, match="reserved"):
        asked.ask(QuestionKind.CREATE_USERS, users=[user_spec(name, "p", [], host="10.0.0.1").model_dump()])
    with pytest.raises(NotFound):
        asked.ask(QuestionKind.DELETE_USER, name=name, host="localhost")
    assert asked.users() == {"app@%": ["shop"]}


def test_what_is_not_there_cannot_be_deleted(asked: Asked) -> None:
    """Unknown and system ones are missing alike."""
    for name in ("nothing", "mysql", "sys", "information_schema"):
        with pytest.raises(NotFound):
            asked.ask(QuestionKind.DELETE_DATABASE, name=name)
    with pytest.raises(NotFound):
        asked.ask(QuestionKind.DELETE_USER, name="app", host="10.9.9.9")


def test_a_clients_lock_ends_the_wait_in_time(asked: Asked) -> None:
    """A database that a client has locked is not dropped within the deadline; that is said, and nothing is lost."""
    query(asked.result, "CREATE TABLE shop.t (id INT)")
    with closing(connect(asked.result)) as client, client.cursor() as cursor:
        cursor.execute("LOCK TABLES shop.t WRITE")
        with pytest.raises(Unprocessable):
            asked.ask(QuestionKind.DELETE_DATABASE, deadline_s=2, name="shop")
    assert asked.databases() == ["shop"]


def test_a_silent_server_is_unavailable(asked: Asked) -> None:
    """A server that does not run answers no question, and the caller learns it at once."""
    asked.servers.stop(asked.spec.id)
    with pytest.raises(Unavailable):
        asked.ask(QuestionKind.LIST_USERS)


def test_many_questions_at_once_are_answered(asked: Asked) -> None:
    """Questions do not wait for each other, and each sees what an earlier one did."""
    failures: list[BaseException] = []

    def create(number: int) -> None:
        try:
            asked.ask(QuestionKind.CREATE_DATABASES, databases=[{"name": f"db{number}"}])
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
