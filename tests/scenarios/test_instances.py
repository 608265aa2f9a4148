"""Instances from their creation to their end, on the real engine and over the real API."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.scenarios.served import Served, connected, eventually, query, served

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def service(lasting_state_dir: Path, instance_network: str) -> Iterator[Served]:
    """A running service, with leases as they are by default: what is said to be at once must not wait for them."""
    with served(lasting_state_dir, instance_network) as service:
        yield service


def act(service: Served, instance: Any, **action: object) -> None:
    """An action on an instance."""
    service.ok("POST", f"/instances/{instance['id']}/action", action)


def server_of(service: Served, instance: Any) -> list[int]:
    """The processes of an instance's database server."""
    return service.processes("mariadbd", instance["id"])


def as_root(instance: Any, password: str, statement: str) -> Any:
    """One statement as root."""
    host = instance["ip"][0]
    with (
        closing(pymysql.connect(host=host, user="root", password=password, autocommit=True)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchall()


def test_stopped_stays_stopped(service: Served) -> None:
    """A stopped instance stays so when the service starts anew, cannot be backed up, and starts with its data."""
    instance = service.instance()
    path = f"/instances/{instance['id']}"
    query(instance, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
    act(service, instance, stop={})
    eventually(lambda: not server_of(service, instance), "the server to end")
    assert service.ok("GET", path)["instance"]["status"] == "SHUTDOWN"
    service.end()
    service.start()
    other = service.instance()  # the agent is at work again
    assert server_of(service, instance) == []
    shown = service.ok("GET", path)["instance"]
    assert (shown["status"], shown["operating_status"]) == ("SHUTDOWN", "SHUTDOWN")
    assert service.call("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}}).status_code == 422
    service.ok("DELETE", f"/instances/{other['id']}")

    act(service, instance, start={})
    service.reaches(path, "ACTIVE")
    assert query(instance, "SELECT COUNT(*) FROM t") == ((0,),)
    act(service, instance, stop={})
    eventually(lambda: service.call("DELETE", path).status_code == 202, "the stopped instance to be deletable")
    eventually(lambda: service.call("GET", path).status_code == 404, "the instance to be gone")


def test_resized(service: Served) -> None:
    """Another flavor is another buffer pool, on the same data, in restarts and restores too; a volume grows at once."""
    instance = service.instance()
    path = f"/instances/{instance['id']}"
    query(instance, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
    pool = "SELECT @@innodb_buffer_pool_size"
    assert query(instance, pool) == ((256 << 20,),)
    for flavor in ("2", "1"):
        act(service, instance, resize={"flavorRef": flavor})
        assert service.reaches(path, "ACTIVE")["flavor"]["id"] == flavor
        assert query(instance, pool) == ((int(flavor) << 28,),)
        act(service, instance, restart={})
        service.reaches(path, "ACTIVE")
        assert query(instance, pool) == ((int(flavor) << 28,),)
    act(service, instance, resize={"volume": {"size": 2}})
    assert service.ok("GET", path)["instance"]["volume"]["size"] == 2
    backup = service.backup(instance)
    assert (backup["volume_size"], backup["flavor_ram"]) == (2, 512)


def test_root_users_and_rights(service: Served) -> None:
    """Root and what was changed of users work on the server, outlive a restart, and come back with a restore."""
    instance = service.instance()
    path = f"/instances/{instance['id']}"
    query(instance, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
    assert service.ok("GET", f"{path}/root") == {"rootEnabled": False}
    password = service.ok("POST", f"{path}/root")["user"]["password"]
    as_root(instance, password, "CREATE DATABASE more")
    service.ok("PUT", f"{path}/users/app/databases", {"databases": [{"name": "more"}]})
    query(instance, "CREATE TABLE more.t (id INT PRIMARY KEY) ENGINE=InnoDB")
    service.ok("DELETE", f"{path}/users/app/databases/more")
    with pytest.raises(pymysql.err.OperationalError, match="command denied"):
        query(instance, "SELECT * FROM more.t")
    service.ok("PUT", f"{path}/users/app", {"user": {"name": "temporary", "password": "x"}})
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        query(instance, "SELECT 1")
    service.ok("PUT", f"{path}/users/temporary", {"user": {"name": "app", "password": "pw1"}})
    act(service, instance, restart={})
    service.reaches(path, "ACTIVE")
    restored = service.instance(restorePoint={"backupRef": service.backup(instance)["id"]})
    for each in (instance, restored):
        assert query(each, "SELECT COUNT(*) FROM t") == ((0,),)
        assert as_root(each, password, "SELECT COUNT(*) FROM more.t") == ((0,),)
        assert service.ok("GET", f"/instances/{each['id']}/root") == {"rootEnabled": True}
    service.ok("DELETE", f"{path}/root")
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        as_root(instance, password, "SELECT 1")


def test_reset_while_a_backup_is_taken(service: Served) -> None:
    """Freeing an instance of BACKUP fails the backup, leaves nothing of it, and the instance can be deleted at once."""
    instance = service.instance()
    path = f"/instances/{instance['id']}"
    query(instance, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=MyISAM")
    with connected(instance) as client, client.cursor() as cursor:
        cursor.execute("LOCK TABLES t WRITE")  # the backup waits for it
        asked = service.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})["backup"]
        eventually(lambda: service.processes("--backup", instance["id"]), "the backup tool to run")
        act(service, instance, reset_status={})
        service.ok("DELETE", path)
        backup = service.ok("GET", f"/backups/{asked['id']}")["backup"]
        assert backup["status"] == "FAILED"
        assert "cancelled" in backup["reason"]
        eventually(lambda: service.call("GET", path).status_code == 404, "the instance to be gone")
    eventually(lambda: not service.objects_of(asked), "everything of the backup to be gone")


def test_a_cancelled_backup_lets_go_at_once(service: Served) -> None:
    """A backup that waits for a client's lock is ended: its tool is gone in a moment, and nothing of it is stored."""
    instance = service.instance()
    query(instance, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=MyISAM")
    with connected(instance) as client, client.cursor() as cursor:
        cursor.execute("LOCK TABLES t WRITE")
        asked = service.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})["backup"]
        eventually(lambda: service.processes("--backup", instance["id"]), "the backup tool to run")
        service.ok("POST", f"/backups/{asked['id']}/action", {"cancel": {}})
        backup = service.ok("GET", f"/backups/{asked['id']}")["backup"]
        assert (backup["status"], backup["reason"]) == ("FAILED", "It was cancelled.")
        eventually(lambda: not service.processes("--backup", instance["id"]), "the backup tool to end", timeout_s=8)
    service.backup(instance)
    eventually(lambda: not service.objects_of(asked), "everything of the backup to be gone")
    service.ok("DELETE", f"/instances/{instance['id']}")
