from pathlib import Path

import pytest

from tests.scenarios.served import eventually, query, served

pytestmark = pytest.mark.engine


def test_a_consolidated_backup_outlives_its_chain(state_dir: Path, instance_network: str) -> None:
    """A chain becomes a full of the same moment while its instance is free; without the chain it is restored."""
    with served(state_dir, instance_network) as service:
        source = service.instance()
        query(source, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
        full = service.backup(source)
        query(source, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * 100) for n in range(5000)])
        wanted = {"name": "i", "instance": source["id"], "parent_id": full["id"]}
        increment = service.ok("POST", "/backups", {"backup": wanted})["backup"]
        service.reaches(f"/backups/{increment['id']}", "COMPLETED")
        expected = query(source, "CHECKSUM TABLE t")

        made = service.ok("POST", f"/backups/{increment['id']}/action", {"consolidate": {"name": "whole"}})["backup"]
        done = service.reaches(f"/backups/{made['id']}", "COMPLETED")
        assert (done["name"], done["type"], done["parent_id"]) == ("whole", "InnoBackupEx", None)
        service.ok("DELETE", f"/backups/{full['id']}")
        eventually(lambda: service.call("GET", f"/backups/{full['id']}").status_code == 404, "the chain to be gone")
        restored = service.instance(restorePoint={"backupRef": made["id"]})
        assert query(restored, "CHECKSUM TABLE t") == expected
