import uuid
from typing import Any

import pytest

from tests.api.site import Site, check_fault

UNKNOWN = str(uuid.UUID(int=7))
MEMBER = {"flavorRef": 1, "volume": {"size": 1}, "name": "m"}
GROUP = {"name": "g", "datastore": {"type": "mariadb"}, "replica_source": [MEMBER], "replicas": [MEMBER]}


def test_none_is_there(site: Site) -> None:
    """There are no HA groups, and it is said so."""
    assert site.ok("GET", "/ha") == {"ha_instances": []}
    for method, path, body in (
        ("GET", f"/ha/{UNKNOWN}", None),
        ("DELETE", f"/ha/{UNKNOWN}", None),
        ("GET", f"/ha/{UNKNOWN}/backups", None),
        ("POST", f"/ha/{UNKNOWN}/action", {"restart": {}}),
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
