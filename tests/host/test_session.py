"""What a hostile tenant puts into its server costs the host a bounded time and memory, and runs with no more rights."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pymysql
import pytest

from snaphold.config import Settings
from snaphold.engines.base import Denied
from snaphold.engines.mariadb.accounts import ADMIN, BACKUP, native_hash
from snaphold.engines.mariadb.engine import MariaDB
from snaphold.engines.mariadb.session import Session, TooMuch, session
from snaphold.errors import SnapholdError, Unavailable, Unprocessable
from snaphold.protocol import HostCallKind
from tests.support.backups import take_to_file
from tests.support.instances import connect, instance_spec, superuser, user_spec, wait_for
from tests.support.servers import installation_of, open_servers

pytestmark = pytest.mark.engine

REAL = "mysql.global_priv_real"
# Each is what a root can put in the place of the table that users are read from.
HOSTILE = {
    "a view that sleeps": [f"CREATE VIEW mysql.global_priv AS SELECT Host, User, SLEEP(60) AS Priv FROM {REAL}"],
    "a view of itself": [f"CREATE VIEW mysql.global_priv AS SELECT * FROM {REAL}"],
    "huge rows": [
        "CREATE TABLE mysql.global_priv (Host CHAR(255), User CHAR(128), Priv LONGTEXT) ENGINE=InnoDB",
        "INSERT INTO mysql.global_priv SELECT 'h', 'u', REPEAT('x', 12000000) FROM seq_1_to_3",
    ],
    "too many rows": [
        "CREATE TABLE mysql.global_priv (Host CHAR(60), User CHAR(60), Priv CHAR(1)) ENGINE=MyISAM",
        "INSERT INTO mysql.global_priv SELECT 'h', 'u', 'x' FROM seq_1_to_25000",
    ],
    "other columns": ["CREATE TABLE mysql.global_priv (id INT)", "INSERT INTO mysql.global_priv VALUES (1)"],
    "nothing": [],
}


class Tenant:
    """An instance with a root, and the host that it lives on."""

    def __init__(self, settings: Settings) -> None:
        self.spec = instance_spec()
        self.servers = open_servers(settings)
        self.result = self.servers.create(self.spec, 1)
        self.ask(HostCallKind.ENABLE_ROOT, password_hash=native_hash("root"))

    def ask(self, kind: HostCallKind, deadline_s: float = 10, **payload: object) -> dict[str, object]:
        """What the host is asked about the instance."""
        return self.servers.ask(self.spec.id, kind, payload, deadline_s=deadline_s)

    def root(self, *statements: str) -> list[tuple[object, ...]]:
        """As the customer's root, in the database ``mysql``; the last one's rows."""
        with closing(connect(self.result, "root", "root", "mysql")) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    @contextmanager
    def session(self, timeout_s: float = 10, most_bytes: int = 1 << 20) -> Iterator[Session]:
        """The host's own, with other limits."""
        directory = self.servers.records.directory(self.spec.id)
        with session(directory.admin_file, directory.socket, timeout_s=timeout_s, most_bytes=most_bytes) as opened:
            yield opened

    def statements(self) -> list[tuple[object, ...]]:
        """What the host's account has running in the server, but for this question."""
        with self.session() as opened:
            return opened.run(
                "SELECT INFO FROM information_schema.PROCESSLIST WHERE USER LIKE 'snaphold%' AND ID <> CONNECTION_ID()"
            )


@pytest.fixture(scope="module")
def tenant(lasting_state_dir: Path, instance_network: str) -> Iterator[Tenant]:
    """One for all tests of the module, which put back what they change."""
    tenant = Tenant(Settings(state_dir=lasting_state_dir, instance_networks=[instance_network]))
    yield tenant
    tenant.servers.delete(tenant.spec.id)


@pytest.mark.parametrize("statements", HOSTILE.values(), ids=HOSTILE.keys())
def test_only_the_systems_own_table_is_read(tenant: Tenant, statements: list[str]) -> None:
    """What stands in the place of the accounts' table is refused as the instance's fault, soon, and is not run."""
    tenant.root(f"RENAME TABLE mysql.global_priv TO {REAL}", *statements)
    begun_s = time.monotonic()
    try:
        with pytest.raises(Unprocessable, match="global_priv"):
            tenant.ask(HostCallKind.LIST_USERS)
    finally:
        tenant.root(
            "DROP VIEW IF EXISTS mysql.global_priv",
            "DROP TABLE IF EXISTS mysql.global_priv",
            f"RENAME TABLE {REAL} TO mysql.global_priv",
        )
    assert time.monotonic() - begun_s < 5
    wait_for(lambda: not tenant.statements(), "the statement to end")
    assert tenant.ask(HostCallKind.LIST_USERS) == {
        "users": [{"name": "app", "host": "%", "databases": [{"name": "shop"}]}]
    }


def test_rows_that_are_no_accounts_are_left_out(tenant: Tenant) -> None:
    """NULLs, other types, endless names and forged JSON harm nobody: what is an account is listed."""
    deep = "[" * 20_000
    tenant.root(
        f"RENAME TABLE mysql.global_priv TO {REAL}",
        "CREATE TABLE mysql.global_priv (Host TEXT, User TEXT, Priv LONGTEXT, more BLOB)",
        f"INSERT INTO mysql.global_priv VALUES (NULL, 'a', '{{}}', ''), ('%', NULL, '{{}}', ''), ('%', 'c', NULL, ''),"
        f" ('%', REPEAT('d', 129), '{{}}', ''), (REPEAT('e', 256), 'e', '{{}}', ''), ('%', 'f', '{deep}', ''),"
        f" ('', 'g', '{{\"is_role\": true}}', ''), ('%', 'h', '{{\"is_role\": \"no\"}}', ''), ('%', 'i', '[1]', '')",
    )
    try:
        users = tenant.ask(HostCallKind.LIST_USERS)["users"]
    finally:
        tenant.root("DROP TABLE mysql.global_priv", f"RENAME TABLE {REAL} TO mysql.global_priv")
    assert users == [{"name": name, "host": "%", "databases": []} for name in ("f", "h", "i")]


def test_users_are_made_and_listed_without_the_systems_own_user(tenant: Tenant) -> None:
    """Hardening scripts drop ``mariadb.sys`` and replace or drop ``mysql.user``: nothing rests on either."""
    tenant.root("DROP USER 'mariadb.sys'@localhost", "CREATE OR REPLACE VIEW mysql.user AS SELECT SLEEP(60) AS User")
    tenant.ask(HostCallKind.CREATE_USERS, users=[user_spec("late", "p", ["shop"]).model_dump()])
    tenant.ask(HostCallKind.CHANGE_USERS, users=[{"name": "late", "host": "%", "new_host": "127.%"}])
    users = tenant.ask(HostCallKind.LIST_USERS)["users"]
    tenant.ask(HostCallKind.DELETE_USER, name="late", host="127.%")
    assert users == [
        {"name": "app", "host": "%", "databases": [{"name": "shop"}]},
        {"name": "late", "host": "127.%", "databases": [{"name": "shop"}]},
    ]
    assert tenant.ask(HostCallKind.SHOW_ROOT) == {"enabled": True}


@pytest.mark.parametrize(
    "statement",
    [
        "SET STATEMENT max_statement_time = 0 FOR SELECT SLEEP(60)",
        "SET STATEMENT max_statement_time = 0 FOR SELECT REPEAT('x', 20000), SLEEP(0.2) FROM mysql.seq_1_to_200",
        "SELECT SLEEP(60)",
    ],
    ids=["silent", "trickling", "ended by the server"],
)
def test_the_deadline_is_for_all_of_a_session(tenant: Tenant, statement: str) -> None:
    """However a server draws its answer out, the session ends in time, and so does the statement in the server."""
    begun_s = time.monotonic()
    with pytest.raises(Unavailable), tenant.session(timeout_s=1, most_bytes=64 << 20) as opened:
        opened.run(statement)
    assert 0.9 < time.monotonic() - begun_s < 5
    wait_for(lambda: not tenant.statements(), "the statement to end")


@pytest.mark.parametrize(
    "statement", ["SELECT REPEAT('x', 2000000)", "SELECT seq FROM mysql.seq_1_to_2000000000"], ids=["wide", "long"]
)
def test_an_answer_is_bounded_in_bytes_and_rows(tenant: Tenant, statement: str) -> None:
    """One row of megabytes and billions of short ones end the session soon, and the statement with it."""
    with pytest.raises(TooMuch), tenant.session() as opened:
        opened.run(statement, most_rows=1000)
    wait_for(lambda: not tenant.statements(), "the statement to end")


def test_a_failure_leaves_the_session_of_others_alone(tenant: Tenant) -> None:
    """What is refused ends its session only; an error of the caller's own is passed on as it is."""
    with tenant.session() as one:
        with pytest.raises(SnapholdError, match="refused"), tenant.session() as other:
            other.run("SELECT nothing")
        with pytest.raises(KeyError), tenant.session():
            raise KeyError
        assert one.run("SELECT 100 % 7") == [(2,)]
        assert one.run("SELECT %s", ("%",)) == [("%",)]


@pytest.mark.parametrize("account", [ADMIN, BACKUP, "app"])
def test_a_definer_lends_root_nothing_that_it_has_not(tenant: Tenant, account: str) -> None:
    """Root loads dumps with any definer in them; what then runs as an internal account can do no more than root."""
    host = "%" if account == "app" else "localhost"
    tenant.root(
        f"CREATE OR REPLACE DEFINER=`{account}`@`{host}` SQL SECURITY DEFINER VIEW shop.v AS SELECT 1 AS a",
        f"CREATE OR REPLACE DEFINER=`{account}`@`{host}` PROCEDURE shop.set_global() SET GLOBAL max_connections = 9",
        f"CREATE OR REPLACE DEFINER=`{account}`@`{host}` PROCEDURE shop.write_file() SELECT 1 INTO OUTFILE 'f'",
        f"CREATE OR REPLACE DEFINER=`{account}`@`{host}` EVENT shop.e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    )
    for procedure in ("set_global", "write_file"):
        with pytest.raises(pymysql.err.MySQLError, match=r"(?i)denied"):
            tenant.root(f"CALL shop.{procedure}()")


def test_no_standing_account_has_more_rights_than_root(tenant: Tenant) -> None:
    """The account with SUPER is in no table from which its name could be read, and does what needs it all the same."""
    names = tenant.root("SELECT User FROM mysql.global_priv WHERE User LIKE 'snaphold%'")
    assert sorted(names) == [(ADMIN,), (BACKUP,)]
    rights = {name: tenant.root(f"SHOW GRANTS FOR '{name}'@localhost")[0][0] for (name,) in names}
    ours, roots = ({*str(text).split(" ON ")[0].removeprefix("GRANT ").split(", ")} for text in rights.values())
    granted = {*str(tenant.root("SHOW GRANTS")[0][0]).split(" ON ")[0].removeprefix("GRANT ").split(", ")}
    assert (ours | roots) - granted == set()
    tenant.servers.access(tenant.spec.id).checkpoint(10)


def test_a_dump_and_a_binary_log_are_loaded_by_root(tenant: Tenant) -> None:
    """What mariadb-dump and mariadb-binlog write is SQL that the customer's root may run, and so is replication."""
    tenant.root(
        "SET SESSION sql_log_bin = 0",
        "SET @@session.server_id = 7, @@session.gtid_domain_id = 1, @@session.gtid_seq_no = 9",
        "SET @@session.pseudo_thread_id = 5, @@session.insert_id = 3, @@session.timestamp = 1700000000",
        "SET SESSION pseudo_slave_mode = 1",
        "SHOW SLAVE STATUS",
        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_USER = 'u', MASTER_PASSWORD = 'p'",
        "RESET SLAVE ALL",
        "SET GLOBAL gtid_slave_pos = ''",
    )


def test_a_restart_makes_the_hosts_accounts_anew(tenant: Tenant) -> None:
    """Hardening scripts drop every account that they do not know; that is said, and a restart repairs it."""
    tenant.root(f"DROP USER {ADMIN}@localhost, {BACKUP}@localhost")
    with pytest.raises(Denied):
        tenant.ask(HostCallKind.LIST_USERS)
    tenant.servers.restart(tenant.spec.id)
    assert tenant.ask(HostCallKind.SHOW_ROOT) == {"enabled": True}


def test_clients_that_take_every_connection_shut_nobody_of_ours_out(tenant: Tenant) -> None:
    """With ``max_connections`` reached the host still asks its questions, and its backup tool gets in."""
    change = superuser(tenant.servers, tenant.spec.id)
    change("SET GLOBAL max_connections = 10", 10)
    with ExitStack() as clients:
        with suppress(pymysql.err.OperationalError):
            while True:
                clients.enter_context(closing(connect(tenant.result)))
        with pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
            connect(tenant.result)
        assert tenant.ask(HostCallKind.SHOW_ROOT) == {"enabled": True}
        access, installation = tenant.servers.access(tenant.spec.id), installation_of(tenant.servers)
        with ExitStack() as ours:
            opened = [ours.enter_context(tenant.session()) for _ in range(8)]
            assert [one.run("SELECT 1") for one in opened] == [[(1,)]] * 8
            assert access.administer_as_tool("SELECT 1", 10) == [(1,)]
        take_to_file(MariaDB(installation), access, access.scratch / "backup")
        change("SET GLOBAL max_connections = 151", 10)
