from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.served import eventually, served

pytestmark = pytest.mark.engine


def test_a_schedule_backs_a_live_database_up(state_dir: Path, instance_network: str) -> None:
    """``run_now`` takes an automated backup within seconds; deleting the instance ends the schedule, not the backup."""
    with served(state_dir, instance_network, "--lease-s=3", "--renew-s=1") as service:
        instance = service.instance()
        wanted = {"action": "backup", "instance_id": instance["id"], "day_of_week": 0, "hour": 3, "minute": 0}
        schedule = service.ok("POST", "/schedules", {"schedule": wanted})["schedule"]
        service.ok("PUT", f"/schedules/{schedule['id']}", {"schedule": {"run_now": "true"}})

        def automated() -> list[Any]:
            return list(service.ok("GET", f"/instances/{instance['id']}/backups")["backups"])

        (backup,) = eventually(automated, "a scheduled backup")
        done = service.reaches(f"/backups/{backup['id']}", "COMPLETED")
        assert (done["is_automated"], done["type"], done["parent_id"]) == (1, "InnoBackupEx", None)

        service.ok("DELETE", f"/instances/{instance['id']}")
        assert service.call("GET", f"/schedules/{schedule['id']}").status_code == 404
        assert service.ok("GET", f"/backups/{backup['id']}")["backup"]["status"] == "COMPLETED"
