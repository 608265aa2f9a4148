import uuid
from typing import Any

import pytest

from tests.api.site import Site, check_fault

UNKNOWN = str(uuid.UUID(int=7))
MEMBER = {"flavorRef": 1, "volume": {"size": 1}, "name": "m"}
GROUP = {"name": "g", "datastore": {"type": "mariadb"}, "replica_source": [MEMBER], "replicas": [MEMBER]}
SCHEDULE = {"action": "backup", "day_of_week": 0, "hour": 14, "minute": 30}


def test_none_is_there(site: Site) -> None:
    """There are no HA groups and no schedules, and it is said so."""
    assert site.ok("GET", "/ha") == {"ha_instances": []}
    assert site.ok("GET", "/schedules") == {"schedules": []}
    for method, path, body in (
        ("GET", f"/ha/{UNKNOWN}", None),
        ("DELETE", f"/ha/{UNKNOWN}", None),
        ("GET", f"/ha/{UNKNOWN}/backups", None),
        ("POST", f"/ha/{UNKNOWN}/action", {"restart": {}}),
        ("GET", f"/schedules/{UNKNOWN}", None),
        ("PUT", f"/schedules/{UNKNOWN}", {"schedule": {"run_now": "true"}}),
        ("DELETE", f"/schedules/{UNKNOWN}", None),
    ):
        check_fault(site.call(method, path, body), 404)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 501),
        ({"networks": [], "acls": [], "configuration": None}, 501),
        ({"name": ""}, 400),
        ({"replica_source": []}, 400),
        ({"replicas": []}, 400),
        ({"replicas": [MEMBER] * 3}, 400),
        ({"replicas": [{**MEMBER, "flavorRef": 99}]}, 400),
        ({"replicas": [{**MEMBER, "volume": None}]}, 400),
    ],
)
def test_create_group(site: Site, change: dict[str, Any], code: int) -> None:
    """A group is checked as it will be, and not offered."""
    check_fault(site.call("POST", "/ha", {"ha": {**GROUP, **change}}), code)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 501),
        ({"day_of_week": 7, "hour": "3", "minute": "0", "full_backup_retention": 2}, 501),
        ({"instance_id": UNKNOWN}, 404),
        ({"instance_id": None, "source_id": UNKNOWN, "source_type": "instance"}, 404),
        ({"instance_id": None, "source_id": UNKNOWN, "source_type": "ha"}, 404),
        ({"instance_id": None}, 400),
        ({"source_id": UNKNOWN, "source_type": "instance"}, 400),
        ({"action": "restart"}, 400),
        ({"day_of_week": 8}, 400),
        ({"hour": 24}, 400),
        ({"minute": -1}, 400),
        ({"minute": True}, 400),
        ({"full_backup_retention": 1}, 400),
    ],
)
def test_create_schedule(site: Site, change: dict[str, Any], code: int) -> None:
    """A schedule is checked as it will be, its source too, and not offered."""
    instance = site.instance()["id"]
    body = {"schedule": {**SCHEDULE, "instance_id": instance, **change}}
    check_fault(site.call("POST", "/schedules", body), code)
