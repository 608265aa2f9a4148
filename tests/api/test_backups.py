import uuid
from pathlib import Path
from typing import Any

import pytest

from snaphold.model import version_id
from tests.api.site import Site, a_result_of, check_fault, opened_site

UNKNOWN = str(uuid.UUID(int=7))
CHAPTER = {
    *("id", "name", "description", "status", "created", "updated", "instance_id", "source", "parent_id", "datastore"),
    *("type", "size", "volume_size", "flavor_ram", "is_automated", "locationRef", "project_id"),
}
PROGRESS = ("step", "done_bytes", "expected_bytes", "percent", "bytes_per_s", "seconds_left")


def _post(site: Site, **fields: Any) -> Any:
    return site.call("POST", "/backups", {"backup": fields})


def test_create_answer(site: Site) -> None:
    """202, and every field of the contract's section 2, a boolean `is_automated` among them."""
    instance = site.instance()
    answer = _post(site, name="snapshot", instance=instance["id"], description="My Backup", incremental=0, new_key=[])
    assert answer.status_code == 202
    backup = answer.json()["backup"]
    assert backup.pop("created") == backup.pop("updated") == "2023-11-14T22:13:20Z"
    assert backup == {
        "id": backup["id"],
        "name": "snapshot",
        "description": "My Backup",
        "status": "NEW",
        "instance_id": instance["id"],
        "source": {"type": "instance", "id": instance["id"]},
        "parent_id": None,
        "datastore": {"type": "mariadb", "version": "10.11", "version_id": version_id("mariadb", "10.11")},
        "type": "InnoBackupEx",
        "size": None,
        "volume_size": 2,
        "flavor_ram": 512,
        "is_automated": False,
        "locationRef": None,
        "project_id": "1234",
        "progress": dict.fromkeys(PROGRESS),
    }
    assert backup["is_automated"] is False


def test_progress_never_passes_its_total(site: Site) -> None:
    """Whatever a host says: what is expected is what is done, at least."""
    instance = site.instance()
    made = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})["backup"]
    task = site.claim()["task"]
    progress = {"session": site.region.session, "attempt": 1, "done_bytes": 50, "expected_bytes": 40, "bytes_per_s": 4}
    assert site.agent(f"tasks/{task['id']}/progress", progress).json() == {}
    shown = site.ok("GET", f"/backups/{made['id']}")["backup"]["progress"]
    assert (shown["done_bytes"], shown["expected_bytes"], shown["percent"], shown["seconds_left"]) == (50, 50, 99, 0)


def test_running_completed_failed(site: Site) -> None:
    """BUILDING tells how far it is, COMPLETED where it lies, FAILED why; the manifest's own time is `updated`."""
    instance = site.instance()
    made = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})["backup"]
    task = site.claim()["task"]
    progress = {"session": site.region.session, "attempt": 1, "step": "copying", "size_bytes": 1 << 29}
    more = {"done_bytes": 30, "expected_bytes": 40, "bytes_per_s": 4}
    assert site.agent(f"tasks/{task['id']}/progress", {**progress, **more}).json() == {}
    shown = site.ok("GET", f"/backups/{made['id']}")["backup"]
    assert (shown["status"], shown["size"], shown["locationRef"]) == ("BUILDING", 0.5, None)
    assert shown["progress"] == {"step": "copying", **more, "percent": 75, "seconds_left": 3}
    assert site.ok("GET", f"/instances/{instance['id']}")["instance"]["status"] == "BACKUP"
    report = {"session": site.region.session, "attempt": 1, "ok": False, "reason": "a lock was held"}
    site.agent(f"tasks/{task['id']}/report", report)
    failed = site.ok("GET", f"/backups/{made['id']}")["backup"]
    assert (failed["status"], failed["reason"], failed["locationRef"]) == ("FAILED", "a lock was held", None)
    assert site.ok("GET", f"/instances/{instance['id']}")["instance"]["status"] == "ACTIVE"

    done = site.backup(instance["id"])
    location = f"http://127.0.0.1:8779/v1/MossoCloudFS_1234/z_CLOUDDB_BACKUPS/{done['id']}.xbstream.gz"
    assert set(done) == {*CHAPTER, "object_size"}
    assert (done["status"], done["locationRef"], done["updated"]) == ("COMPLETED", location, "2026-01-02T03:04:05Z")
    assert (done["size"], done["object_size"], done["is_automated"]) == (0.004883, 1 << 20, 0)
    assert done["is_automated"] is not False


@pytest.mark.parametrize(
    "fields",
    [
        {"instance": "x"},
        {"name": None, "instance": "x"},
        {"name": 5, "instance": "x"},
        {"name": "", "instance": "x"},
        {"name": "  ", "instance": "x"},
        {"name": "-_-", "instance": "x"},
        {"name": "n" * 65, "instance": "x"},
        {"name": "n\0", "instance": "x"},
        {"name": "n"},
        {"name": "n", "instance": None},
        {"name": "n", "instance": ""},
        {"name": "n", "instance": 5},
        {"name": "n", "instance": "x", "description": 5},
        {"name": "n", "instance": "x", "parent_id": 5},
        {"name": "n", "instance": "x", "incremental": 2},
        {"name": "n", "instance": "x", "incremental": "1"},
        {"name": "n", "instance": "x", "copy_to": "IAD"},
        {"name": "n", "instance": "x", "copy_to": [5]},
        {"name": "n", "instance": "x", "source": {"type": "instance", "id": "y"}},
        {"name": "n", "instance": "x", "source": {"type": "ha", "id": "x"}},
        {"name": "n", "source": {"type": "cluster", "id": "x"}},
        {"name": "n", "source": {"type": "ha"}},
        {"name": "n", "source": {}},
    ],
)
def test_create_bad_form(site: Site, fields: dict[str, Any]) -> None:
    """What cannot be meant is a 400 that says which element, before anything is looked up."""
    check_fault(_post(site, **fields), 400, r"backup\b.*")


@pytest.mark.parametrize("name", ["n", "n" * 64, "ünïcode", "7", " a ", "snapshot.1", "備份"])
def test_create_names(site: Site, name: str) -> None:
    """A name has 1 to 64 characters of whatever script, one of them a letter or a digit."""
    check_fault(_post(site, name=name, instance=UNKNOWN), 404)


def test_create_not_found(site: Site) -> None:
    """An unknown instance, a foreign one, an id that is none, and any HA group: 404."""
    foreign = site.instance(user="other", account="9999")["id"]
    for instance in (UNKNOWN, foreign, "zz"):
        check_fault(_post(site, name="n", instance=instance), 404)
        check_fault(_post(site, name="n", source={"type": "instance", "id": instance}), 404)
    for instance in (None, ""):
        check_fault(_post(site, name="n", instance=instance, source={"type": "ha", "id": UNKNOWN}), 404)


def test_create_by_source(site: Site) -> None:
    """`source` may name the instance, alone or beside `instance`."""
    instance = site.instance()["id"]
    source = {"type": "instance", "id": instance}
    for fields in ({"source": source}, {"source": source, "instance": instance}, {"source": source, "instance": None}):
        assert _post(site, name="n", **fields).status_code == 202
        site.work()


def test_create_order_of_checks(tmp_path: Path) -> None:
    """Of several faults the first in the contract's order is told."""
    with opened_site(tmp_path, max_running_backups_per_account=1) as site:
        instance, second = site.instance(), site.instance()
        done = site.backup(second["id"])
        bad_copy = {"copy_to": ["LON"]}
        check_fault(_post(site, name="", instance=UNKNOWN, parent_id=UNKNOWN, **bad_copy), 400, "backup.name .*")
        check_fault(_post(site, name="n", instance=UNKNOWN, parent_id=UNKNOWN, **bad_copy), 404)
        assert _post(site, name="n", instance=second["id"]).status_code == 202
        for busy in (second["id"], instance["id"]):
            check_fault(_post(site, name="n", instance=busy, parent_id=UNKNOWN, **bad_copy), 422)
        site.work()
        check_fault(_post(site, name="n", instance=instance["id"], parent_id=UNKNOWN, **bad_copy), 404)
        check_fault(_post(site, name="n", instance=instance["id"], parent_id=done["id"], **bad_copy), 400, "Backup .*")
        check_fault(_post(site, name="n", instance=second["id"], parent_id=done["id"], **bad_copy), 400, ".*LON.*")
        increment = _post(site, name="n", instance=second["id"], parent_id=done["id"]).json()["backup"]
        assert (increment["parent_id"], increment["type"]) == (done["id"], "InnoBackupExIncremental")


@pytest.mark.parametrize("region", ["LON", "MARS", "DFW", "iad"])
def test_copy_to_bad_region(site: Site, region: str) -> None:
    """`copy_to` takes the chapter's regions but the one that we are in."""
    instance = site.instance()["id"]
    check_fault(_post(site, name="n", instance=instance, copy_to=["IAD", region]), 400)
    check_fault(_post(site, name="n", instance=instance, copy_to=["IAD", "IAD"]), 400, ".*not set up.*")


def test_busy(site: Site) -> None:
    """While a backup is taken, whatever would disturb it is a 422 that names the state; a rename is not."""
    instance = site.instance()["id"]
    backup = _post(site, name="n", instance=instance).json()["backup"]
    message = (
        f"Instance {instance} is not currently available for an action to be performed "
        r"\(instance status was BACKUP\)\."
    )
    path = f"/instances/{instance}"
    for method, where, body in (
        ("POST", "/backups", {"backup": {"name": "m", "instance": instance}}),
        ("DELETE", path, None),
        ("POST", f"{path}/action", {"restart": {}}),
        ("POST", f"{path}/action", {"stop": {}}),
        ("POST", f"{path}/action", {"start": {}}),
        ("POST", f"{path}/action", {"resize": {"volume": {"size": 9}}}),
        ("POST", f"{path}/root", None),
        ("POST", f"{path}/databases", {"databases": [{"name": "d"}]}),
        ("DELETE", f"{path}/databases/d", None),
        ("POST", f"{path}/users", {"users": [{"name": "u", "password": "p"}]}),
        ("PUT", f"{path}/users", {"users": [{"name": "u", "password": "p"}]}),
        ("PUT", f"{path}/users/u", {"user": {"password": "p"}}),
        ("DELETE", f"{path}/users/u", None),
        ("PUT", f"{path}/users/u/databases", {"databases": [{"name": "d"}]}),
        ("DELETE", f"{path}/users/u/databases/d", None),
    ):
        check_fault(site.call(method, where, body), 422, message)
    assert site.call("PATCH", path, {"instance": {"name": "renamed"}}).status_code == 202
    assert site.ok("GET", path)["instance"]["name"] == "renamed"
    message = f"Backup {backup['id']} cannot be deleted because it is running."
    check_fault(site.call("DELETE", f"/backups/{backup['id']}"), 422, message)


@pytest.mark.parametrize("backup_id", [UNKNOWN, "zz", "%20", "'; drop table backups"])
def test_unknown_backup(site: Site, backup_id: str) -> None:
    """An id that was never given is a 404, of whatever form; so is a foreign one."""
    foreign = site.backup(site.instance(user="other", account="9999")["id"], user="other", account="9999")["id"]
    for each in (backup_id, foreign):
        for method, path, body in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("POST", "/action", {"copy-backup": {"target_backup_region": "IAD"}}),
            ("POST", "/action", {"verify": {}}),
            ("POST", "/action", {"mend": {}}),
        ):
            check_fault(site.call(method, f"/backups/{each}{path}", body), 404, "Backup .* cannot be found.")


def test_delete(site: Site) -> None:
    """202 without a body; the backup is there until its objects are gone, and a second DELETE is 202 again."""
    backup = site.backup(site.instance()["id"])
    for _ in range(2):
        answer = site.call("DELETE", f"/backups/{backup['id']}")
        assert (answer.status_code, answer.content) == (202, b"")
    assert site.ok("GET", f"/backups/{backup['id']}")["backup"]["status"] == "COMPLETED"
    assert len(site.region.enqueued()) == 1
    restore = {"name": "r", "flavorRef": 1, "restorePoint": {"backupRef": backup["id"]}}
    check_fault(site.call("POST", "/instances", {"instance": restore}), 422)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 400),
        ({"frobnicate": {}}, 400),
        ({"verify": {}, "cancel": {}}, 400),
        ({"copy-backup": None}, 400),
        ({"copy-backup": {}}, 400),
        ({"copy-backup": {"target_backup_region": 5}}, 400),
        ({"copy-backup": {"target_backup_region": "IAD", "name": "n" * 65}}, 400),
        ({"copy-backup": {"target_backup_region": "LON"}}, 400),
        ({"copy-backup": {"target_backup_region": "DFW"}}, 400),
        ({"copy-backup": {"target_backup_region": "IAD", "name": None, "description": ""}}, 400),
        ({"consolidate": {}}, 422),  # it is a full one
        ({"mend": {}}, 422),  # it is in no other region
        ({"mend": 5}, 400),
        ({"consolidate": {"name": ""}}, 400),
        ({"cancel": {}}, 422),
        ({"cancel": 5}, 400),
    ],
)
def test_actions(site: Site, body: dict[str, Any], code: int) -> None:
    """What a later release does is checked as it will be, and then a `notImplemented`."""
    backup = site.backup(site.instance()["id"])
    check_fault(site.call("POST", f"/backups/{backup['id']}/action", body), code)


@pytest.mark.parametrize("claimed", [True, False])
def test_cancel(site: Site, claimed: bool) -> None:  # noqa: FBT001
    """A running backup is FAILED, that is its reason; its instance is free, and its host is told by its next claim."""
    instance = site.instance()["id"]
    made = site.ok("POST", "/backups", {"backup": {"name": "n", "instance": instance}})["backup"]
    path = f"/backups/{made['id']}"
    task = site.claim()["task"] if claimed else None
    answer = site.call("POST", f"{path}/action", {"cancel": {}})
    assert (answer.status_code, answer.content) == (202, b"")
    backup = site.ok("GET", path)["backup"]
    assert (backup["status"], backup["reason"], backup["locationRef"]) == ("FAILED", "It was cancelled.", None)
    assert site.ok("GET", f"/instances/{instance}")["instance"]["status"] == "ACTIVE"
    assert [name for name, _ in site.region.enqueued()] == ["sweep_backup"]
    check_fault(site.call("POST", f"{path}/action", {"cancel": {}}), 422)
    check_fault(site.call("POST", f"/backups/{UNKNOWN}/action", {"cancel": {}}), 404)
    if task is not None:
        claim = {"session": site.region.session, "wait_s": 30, "at_work": {task["id"]: task["attempt"]}}
        assert site.agent("claim", claim).json() == {"task": None, "question": None, "given_up": [task["id"]]}
        late = {"session": site.region.session, "attempt": 1, "ok": True, "backup": a_result_of(task)}
        check_fault(site.agent(f"tasks/{task['id']}/report", late), 409)
    assert site.backup(instance)["status"] == "COMPLETED"


def test_copy_of_a_running_backup(site: Site) -> None:
    """Only a COMPLETED backup can be copied."""
    backup = _post(site, name="n", instance=site.instance()["id"]).json()["backup"]
    body = {"copy-backup": {"target_backup_region": "IAD"}}
    check_fault(site.call("POST", f"/backups/{backup['id']}/action", body), 422)


def test_backups_from_elsewhere(site: Site) -> None:
    """A backup of what lies elsewhere is checked in form and not offered."""
    check_fault(_post(site, name="n", restore_from={"remote_location": "x"}), 501)
    check_fault(_post(site, name="", restore_from={"remote_location": "x"}), 400)


def _names(answer: Any) -> list[str]:
    return [backup["name"] for backup in answer["backups"]]


def _follow(site: Site, path: str) -> list[str]:
    """The names on all pages, by their links."""
    names: list[str] = []
    while path:
        page = site.ok("GET", path)
        names += _names(page)
        hrefs = [link["href"] for link in page.get("links", []) if link["rel"] == "next"]
        path = hrefs[0].removeprefix("http://127.0.0.1:8779/v1.0/1234") if hrefs else ""
    return names


def test_pages(site: Site) -> None:
    """Newest first, 20 a page, `limit` as given and at most 100, a link exactly when there is more."""
    first, second = site.instance()["id"], site.instance()["id"]
    for number in range(25):
        site.backup(first if number % 5 else second, f"b{number}")
    newest_first = [f"b{number}" for number in reversed(range(25))]
    page = site.ok("GET", "/backups")
    assert _names(page) == newest_first[:20]
    (link,) = page["links"]
    assert link == {
        "rel": "next",
        "href": f"http://127.0.0.1:8779/v1.0/1234/backups?marker={page['backups'][-1]['id']}",
    }
    for path in ("/backups", "/backups?limit=7", "/backups?limit=1"):
        assert _follow(site, path) == newest_first
    for path in ("/backups?limit=25", "/backups?limit=100", "/backups?limit=100000"):
        page = site.ok("GET", path)
        assert (_names(page), "links" in page) == (newest_first, False)
    of_second = [f"b{number}" for number in (20, 15, 10, 5, 0)]
    assert _follow(site, f"/backups?limit=2&datastore=MariaDB&instance_id={second}&other=a%20b%26c") == of_second
    assert _follow(site, f"/instances/{second}/backups?limit=2") == of_second
    assert _names(site.ok("GET", f"/instances/{first}/backups?limit=20&marker=0")) == [
        name for name in newest_first if name not in of_second
    ]
    assert _names(site.ok("GET", "/backups?marker=23")) == ["b1", "b0"]
    assert _names(site.ok("GET", "/backups?marker=999999999999999999")) == []


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=-1", "limit=x", "limit=1.5", "limit=", "limit=%C2%B2", "limit=" + "9" * 30),
        *("marker=", "marker=qqqqqqqqq", "marker=%27", "marker=-1", "marker=" + "9" * 30, f"marker={UNKNOWN}"),
    ],
)
def test_bad_pages(site: Site, query: str) -> None:
    """A limit or a marker that makes no sense is a 400, on each list of backups and of instances."""
    instance = site.instance()["id"]
    for path in ("/backups", f"/instances/{instance}/backups", "/instances"):
        check_fault(site.call("GET", f"{path}?{query}"), 400)


def test_datastore_filter(site: Site) -> None:
    """A known datastore's name in any case, or its id, filters; an unknown one is a 404."""
    site.backup(site.instance()["id"], "b")
    offered = site.ok("GET", "/datastores")["datastores"][0]
    for wanted, names in (
        ("mariadb", ["b"]),
        ("MariaDB", ["b"]),
        (offered["id"], ["b"]),
        ("mysql", []),
        ("percona", []),
    ):
        assert _names(site.ok("GET", f"/backups?datastore={wanted}")) == names
    for wanted in ("nope", "", UNKNOWN, "%00"):
        check_fault(site.call("GET", f"/backups?datastore={wanted}"), 404, "Datastore '.*' cannot be found.")


def test_backups_of_a_deleted_instance(site: Site) -> None:
    """The list of an instance works as long as there is a record of it; an id never seen is a 404."""
    instance = site.instance()["id"]
    site.backup(instance, "b")
    site.ok("DELETE", f"/instances/{instance}")
    site.work()
    check_fault(site.call("GET", f"/instances/{instance}"), 404)
    assert _names(site.ok("GET", f"/instances/{instance}/backups")) == ["b"]
    foreign = site.instance(user="other", account="9999")["id"]
    for unknown in (UNKNOWN, "zz", foreign):
        check_fault(site.call("GET", f"/instances/{unknown}/backups"), 404)
        check_fault(site.call("GET", f"/ha/{unknown}/backups"), 404)
