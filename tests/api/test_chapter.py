"""The requests that the chapter prints, sent as they are; in the answers every key of its own, of its own type.

Less copies and HA groups, which are tested where they are built, and less what contract section 1 calls a defect.
"""

from typing import Any, Final

import pytest

from tests.api.site import Site

TEXT: Final = str
NUMBER: Final = (int, float)
DATASTORE: Final = {"type": TEXT, "version": TEXT, "version_id": TEXT}
# A backup: as it is answered when it was asked for, and as lists and reads show it once it is COMPLETED.
CREATED: Final = {
    "created": TEXT,
    "updated": TEXT,
    "datastore": DATASTORE,
    "description": TEXT,
    "id": TEXT,
    "instance_id": TEXT,
    "is_automated": bool,
    "flavor_ram": int,
    "locationRef": None,
    "name": TEXT,
    "size": None,
    "source": {"type": TEXT, "id": TEXT},
    "status": TEXT,
    "type": TEXT,
    "volume_size": int,
}
COMPLETED: Final = {**CREATED, "size": NUMBER, "locationRef": TEXT, "is_automated": int}
RESTORED: Final = {
    "created": TEXT,
    "updated": TEXT,
    "datastore": {"type": TEXT, "version": TEXT},
    "flavor": {"id": TEXT, "links": [{"href": TEXT, "rel": TEXT}]},
    "id": TEXT,
    "links": [{"href": TEXT, "rel": TEXT}],
    "name": TEXT,
    "status": TEXT,
    "volume": {"size": int},
}


def check(shown: Any, shape: Any, where: str = "") -> None:
    """Every key of the shape is there, with a value of its type; a list's rows are all of its one shape."""
    if isinstance(shape, dict):
        assert shape.keys() <= shown.keys(), (where, shape.keys() - shown.keys())
        for key, inner in shape.items():
            check(shown[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert shown, where
        for row in shown:
            check(row, shape[0], f"{where}[]")
    elif shape is None:
        assert shown is None, where
    else:
        assert isinstance(shown, shape), (where, shown)
        assert shape in {bool, NUMBER} or not isinstance(shown, bool), (where, shown)


@pytest.fixture
def instance(site: Site) -> str:
    """The instance of the examples."""
    return str(site.instance()["id"])


def full(instance: str) -> dict[str, Any]:
    """The body of the first example."""
    return {"backup": {"description": "My Backup", "instance": instance, "name": "snapshot"}}


def test_create_backup(site: Site, instance: str) -> None:
    """The example `Create backup`: 202, NEW, without a parent, a size or a place."""
    answer = site.call("POST", "/backups", full(instance))
    assert answer.status_code == 202
    (made,) = answer.json().values()
    check(made, {**CREATED, "parent_id": None})
    assert (made["status"], made["name"], made["description"]) == ("NEW", "snapshot", "My Backup")
    assert (made["instance_id"], made["type"]) == (instance, "InnoBackupEx")


def test_create_incremental_backup(site: Site, instance: str) -> None:
    """The example `Create incremental backup`: 202, with its parent's id and the increments' type."""
    parent = site.ok("POST", "/backups", full(instance))["backup"]["id"]
    site.work()
    fields = {"description": "My Incremental Backup", "name": "Incremental Snapshot"}
    answer = site.call("POST", "/backups", {"backup": {**fields, "instance": instance, "parent_id": parent}})
    assert answer.status_code == 202
    (made,) = answer.json().values()
    check(made, {**CREATED, "parent_id": TEXT})
    assert (made["status"], made["parent_id"], made["type"]) == ("NEW", parent, "InnoBackupExIncremental")


@pytest.mark.parametrize(
    "path",
    ["/backups", "/backups?datastore=mariadb", "/instances/INSTANCE/backups"],
    ids=["all", "by type", "by instance"],
)
def test_list_backups(site: Site, instance: str, path: str) -> None:
    """The example `List backups`, its query, "List backups for instance": 200, whole rows, newest first."""
    for _ in range(2):
        site.ok("POST", "/backups", full(instance))
        site.work()
    answer = site.call("GET", path.replace("INSTANCE", instance))
    assert answer.status_code == 200
    check(answer.json(), {"backups": [{**COMPLETED, "parent_id": None}]})
    assert [row["status"] for row in answer.json()["backups"]] == ["COMPLETED"] * 2
    assert [row["is_automated"] for row in answer.json()["backups"]] == [0, 0]


def test_list_backups_of_a_type_nobody_has(site: Site) -> None:
    """The query of the example, `datastore=mysql`, is good where there is none too."""
    assert site.ok("GET", "/backups?datastore=mysql") == {"backups": []}


def test_list_backup_by_id(site: Site, instance: str) -> None:
    """The example `List backup by ID`: 200; its place ends in its id, as an object of the chapter's container."""
    made = site.ok("POST", "/backups", full(instance))["backup"]["id"]
    site.work()
    answer = site.call("GET", f"/backups/{made}")
    assert answer.status_code == 200
    check(answer.json(), {"backup": {**COMPLETED, "parent_id": None}})
    assert answer.json()["backup"]["locationRef"].endswith(f"/z_CLOUDDB_BACKUPS/{made}.xbstream.gz")


def test_delete_backup(site: Site, instance: str) -> None:
    """The example `Delete backup`: 202, and nothing in the body."""
    made = site.ok("POST", "/backups", full(instance))["backup"]["id"]
    site.work()
    answer = site.call("DELETE", f"/backups/{made}")
    assert (answer.status_code, answer.content) == (202, b"")


def test_restore_backup(site: Site, instance: str) -> None:
    """The example `Restore backup`: 200, an instance that is being built."""
    made = site.ok("POST", "/backups", full(instance))["backup"]["id"]
    site.work()
    wanted = {"flavorRef": 1, "name": "json_restore", "restorePoint": {"backupRef": made}, "volume": {"size": 2}}
    answer = site.call("POST", "/instances", {"instance": wanted})
    assert answer.status_code == 200
    check(answer.json(), {"instance": RESTORED})
    restored = answer.json()["instance"]
    assert (restored["status"], restored["name"], restored["volume"]["size"]) == ("BUILD", "json_restore", 2)
    assert isinstance(restored["hostname"], str)
    rels = [link["rel"] for link in restored["links"]]
    assert rels == ["self", "bookmark"] == [link["rel"] for link in restored["flavor"]["links"]]
