import shlex
from pathlib import Path
from typing import Final

import pytest

from tests.scenarios.served import Served, eventually, query, served

pytestmark = pytest.mark.engine

# When a backup was asked for and taken, by which attempt, what it became and how it was verified.
STORY: Final = [
    "backup.published",
    "backup.requested",
    "backup.verified",
    "task.completed",
    "task.ended",
    "task.started",
]


def story_of(service: Served, backup_id: str) -> list[dict[str, str]]:
    """The lines of the log that name a backup, by event; empty until its story is whole."""
    words = [shlex.split(line) for line in service.log.read_text().splitlines() if backup_id in line]
    lines = [dict(word.split("=", 1) for word in line if "=" in word) for line in words]
    told = sorted((line for line in lines if line["level"] == "info"), key=lambda line: line["event"])
    return told if len(told) >= len(STORY) else []


def test_a_live_database_is_backed_up_and_comes_back(empty_state_dir: Path, instance_network: str) -> None:
    """What was in a database when it was backed up is in the restored one, users and passwords too.

    A deleted backup leaves no object.
    """
    with served(empty_state_dir, instance_network) as service:
        source = service.instance()
        query(source, "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(200)) ENGINE=InnoDB")
        query(source, "INSERT INTO t (v) VALUES (%s)", [("x" * (n % 150),) for n in range(20_000)])
        expected = query(source, "CHECKSUM TABLE t")

        asked = service.ok("POST", "/backups", {"backup": {"name": "first", "instance": source["id"]}})["backup"]
        assert (asked["status"], asked["size"], asked["locationRef"]) == ("NEW", None, None)
        second = service.call("POST", "/backups", {"backup": {"name": "second", "instance": source["id"]}})
        assert second.status_code == 422
        backup = service.reaches(f"/backups/{asked['id']}", "COMPLETED")
        assert service.ok("GET", f"/instances/{source['id']}")["instance"]["status"] == "ACTIVE"
        assert 0 < backup["size"] < 1

        told = eventually(lambda: story_of(service, backup["id"]), "the backup's story")
        assert [line["event"] for line in told] == STORY
        assert all(line["timestamp"].endswith("Z") for line in told)
        assert {line["attempt"] for line in told if "attempt" in line} == {"1"}
        assert next(line["verification_level"] for line in told if line["event"] == "backup.verified") == "objects"

        query(source, "DELETE FROM t")
        restored = service.instance(restorePoint={"backupRef": backup["id"]})
        assert query(restored, "CHECKSUM TABLE t") == expected
        assert restored["ip"] != source["ip"]

        service.ok("DELETE", f"/backups/{backup['id']}")
        path = f"/backups/{backup['id']}"
        eventually(lambda: service.call("GET", path).status_code == 404, "the deleted backup to be unknown")
        assert [path for path in empty_state_dir.rglob("*") if backup["id"] in path.name] == []


def test_a_backup_while_rows_are_written(state_dir: Path, instance_network: str) -> None:
    """A backup stands at one moment: of two tables that are always written in one transaction it has the same rows."""
    with served(state_dir, instance_network) as service:
        source = service.instance()
        for table in ("debit", "credit"):
            query(source, f"CREATE TABLE {table} (id INT PRIMARY KEY, filler CHAR(200)) ENGINE=InnoDB")
        made = service.ok("POST", "/backups", {"backup": {"name": "b", "instance": source["id"]}})["backup"]
        count = 0
        while service.ok("GET", f"/backups/{made['id']}")["backup"]["status"] in {"NEW", "BUILDING"}:
            query(
                source,
                "BEGIN NOT ATOMIC START TRANSACTION;"
                f" INSERT INTO debit VALUES ({count}, 'x'); INSERT INTO credit VALUES ({count}, 'y'); COMMIT; END",
            )
            count += 1
        backup = service.reaches(f"/backups/{made['id']}", "COMPLETED")
        restored = service.instance(restorePoint={"backupRef": backup["id"]})
        debits = query(restored, "SELECT id FROM debit ORDER BY id")
        assert debits == query(restored, "SELECT id FROM credit ORDER BY id")
        assert debits == tuple((n,) for n in range(len(debits)))
        assert len(debits) <= count


def test_two_regions_share_one_identity_and_one_machine(state_dir: Path, instance_network: str) -> None:
    """Each region has a record and a store of its own; a token of one is good in the other."""
    with served(state_dir, instance_network, regions=("DFW", "IAD")) as service:
        service.instance()
        headers = {"X-Auth-Token": service.token or ""}
        import httpx  # noqa: PLC0415

        answer = httpx.get(f"http://127.0.0.1:{service.ports['IAD']}/v1.0/1234/instances", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"instances": []})
