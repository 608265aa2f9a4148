from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.served import eventually, query, served

pytestmark = pytest.mark.engine


def test_a_schedule_backs_a_live_database_up(state_dir: Path, instance_network: str) -> None:
    """``run_now`` takes a full, then an increment on it, which is restored to its moment.

    Deleting the instance ends its schedule, and touches no backup.
    """
    with served(state_dir, instance_network, "--lease-s=3", "--renew-s=1") as service:
        source = service.instance()
        wanted = {"action": "backup", "instance_id": source["id"], "day_of_week": 0, "hour": 3, "minute": 0}
        schedule = service.ok("POST", "/schedules", {"schedule": wanted})["schedule"]
        query(source, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")

        def run_now(count: int) -> Any:
            query(source, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * 100) for n in range(count * 1000, count * 2000)])
            service.ok("PUT", f"/schedules/{schedule['id']}", {"schedule": {"run_now": "true"}})

            def newest() -> Any:
                found = service.ok("GET", f"/instances/{source['id']}/backups")["backups"]
                return found[0] if len(found) == count else None

            begun = eventually(newest, "a scheduled backup")
            return service.reaches(f"/backups/{begun['id']}", "COMPLETED")

        full, increment = run_now(1), run_now(2)
        assert (full["is_automated"], full["type"], full["parent_id"]) == (1, "InnoBackupEx", None)
        assert (increment["type"], increment["parent_id"]) == ("InnoBackupExIncremental", full["id"])
        expected = query(source, "CHECKSUM TABLE t")
        restored = service.instance(restorePoint={"backupRef": increment["id"]})
        assert query(restored, "CHECKSUM TABLE t") == expected

        service.ok("DELETE", f"/instances/{source['id']}")
        assert service.call("GET", f"/schedules/{schedule['id']}").status_code == 404
        assert service.ok("GET", f"/backups/{increment['id']}")["backup"]["status"] == "COMPLETED"
