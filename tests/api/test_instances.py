import ipaddress
import uuid
from typing import Any
from unittest.mock import ANY

import pytest

from snaphold.model import datastore_id, version_id
from tests.api.site import Site, a_result_of, check_fault

UNKNOWN = str(uuid.UUID(int=7))
ENDPOINT = "http://127.0.0.1:8779"


def _post(site: Site, **fields: Any) -> Any:
    return site.call("POST", "/instances", {"instance": {"name": "db", "flavorRef": 1, **fields}})


def test_create_answer_and_show(site: Site) -> None:
    """200, every field of the contract's section 4; address and use once they are known."""
    answer = _post(site, volume={"size": 2, "type": None}, nics=[], access={"is_public": False}, availability_zone="x")
    assert answer.status_code == 200
    made = answer.json()["instance"]
    path = f"instances/{made['id']}"
    assert made.pop("created") == made.pop("updated") == "2023-11-14T22:13:20Z"
    expected = {
        "id": made["id"],
        "name": "db",
        "status": "BUILD",
        "operating_status": "NEW",
        "flavor": {
            "id": "1",
            "links": [
                {"href": f"{ENDPOINT}/v1.0/1234/flavors/1", "rel": "self"},
                {"href": f"{ENDPOINT}/flavors/1", "rel": "bookmark"},
            ],
        },
        "volume": {"size": 2},
        "datastore": {"type": "mariadb", "version": "10.11"},
        "region": "DFW",
        "hostname": made["hostname"],
        "ip": [made["hostname"]],
        "addresses": [{"address": made["hostname"], "type": "private"}],
        "links": [
            {"href": f"{ENDPOINT}/v1.0/1234/{path}", "rel": "self"},
            {"href": f"{ENDPOINT}/{path}", "rel": "bookmark"},
        ],
    }
    assert made == expected
    assert ipaddress.ip_address(made["hostname"]) in ipaddress.ip_network("127.77.0.0/16")
    site.work()
    shown = site.ok("GET", f"/{path}")["instance"]
    assert shown | {"created": 0, "updated": 0} == expected | {
        "created": 0,
        "updated": 0,
        "status": "ACTIVE",
        "operating_status": "HEALTHY",
        "volume": {"size": 2, "used": 1.0},
    }


def test_other_port(site: Site) -> None:
    """A port other than 3306 is told."""
    made = _post(site, volume={"size": 2}).json()["instance"]
    task = site.claim()["task"]
    instance = {"address": "10.0.0.1", "port": 13306, "used_bytes": 0, "full_version": "10.11.19"}
    report = {"session": site.region.session, "attempt": 1, "ok": True, "instance": instance}
    site.agent(f"tasks/{task['id']}/report", report)
    assert site.ok("GET", f"/instances/{made['id']}")["instance"]["port"] == 13306


def test_failed(site: Site) -> None:
    """An instance that could not be built is in ERROR, with the reason."""
    made = _post(site, volume={"size": 2}).json()["instance"]
    site.work(ok=False)
    shown = site.ok("GET", f"/instances/{made['id']}")["instance"]
    assert (shown["status"], shown["reason"], shown["operating_status"]) == (
        "ERROR",
        "it was told to fail",
        "CRASHED",
    )


@pytest.mark.parametrize("reference", [2, "2", "http://127.0.0.1:8779/v1.0/1234/flavors/2", "/flavors/2/"], ids=repr)
def test_flavor_references(site: Site, reference: object) -> None:
    """A flavor is named by its id, as number or text, or by an href that ends in it."""
    answer = _post(site, flavorRef=reference, volume={"size": 1})
    assert answer.json()["instance"]["flavor"]["id"] == "2"


@pytest.mark.parametrize(
    "fields",
    [
        {"flavorRef": 9},
        {"flavorRef": 0},
        {"flavorRef": True},
        {"flavorRef": None},
        {"flavorRef": ""},
        {"flavorRef": [1]},
        {"flavorRef": 1.5},
        {"flavorRef": "x" * 5000},
        {"name": ""},
        {"name": "  "},
        {"name": "n" * 256},
        {"name": 5},
        {"volume": None},
        {"volume": {}},
        {"volume": 2},
        {"volume": {"size": 0}},
        {"volume": {"size": -1}},
        {"volume": {"size": "2.0"}},
        {"volume": {"size": True}},
        {"volume": {"size": 1.5}},
        {"volume": {"size": 10**40}},
        {"datastore": "mariadb"},
        {"datastore": {"type": 5}},
        {"datastore": {"version": 10.11}},
        {"databases": {}},
        {"databases": [{}]},
        {"databases": [{"name": "d"}, {"name": "d"}]},
        {"users": [{"name": "u"}]},
        {"users": [{"name": "root", "password": "p"}]},
        {"users": [{"name": "u", "password": "p"}, {"name": "u", "password": "q", "host": "%"}]},
        {"restorePoint": {}},
        {"restorePoint": {"backupRef": ""}},
        {"restorePoint": {"backupRef": 5}},
        {"replica_of": 5},
    ],
)
def test_create_bad_form(site: Site, fields: dict[str, Any]) -> None:
    """What cannot be meant is a 400; an instance that is not restored needs a volume."""
    check_fault(_post(site, **{"volume": {"size": 2}, **fields}), 400)


def test_create_not_found(site: Site) -> None:
    """An unknown datastore, version, backup or source is a 404; a known source's replica is not offered."""
    volume = {"volume": {"size": 2}}
    instance = site.instance()["id"]
    foreign = site.instance(user="other", account="9999")["id"]
    check_fault(_post(site, **volume, datastore={"type": "oracle"}), 404)
    check_fault(_post(site, **volume, datastore={"type": "mariadb", "version": "5.5"}), 404)
    for unknown in (UNKNOWN, "zz", foreign):
        check_fault(_post(site, **volume, restorePoint={"backupRef": unknown}), 404)
        check_fault(_post(site, **volume, replica_of=unknown), 404)
    check_fault(_post(site, **volume, replica_of=instance), 501)


@pytest.mark.parametrize(
    "datastore",
    [
        {"type": "mariadb"},
        {"type": "MariaDB", "version": "10.11"},
        {"type": datastore_id("mariadb"), "version": version_id("mariadb", "10.11")},
        {"version": "10.11.19"},
        {},
        None,
    ],
)
def test_datastore_references(site: Site, datastore: object) -> None:
    """A datastore and its version are named by name or id; what is left out is the newest that is offered."""
    answer = _post(site, volume={"size": 1}, datastore=datastore)
    assert answer.json()["instance"]["datastore"] == {"type": "mariadb", "version": "10.11"}


def test_restore(site: Site) -> None:
    """A backup's reference restores it, on its own volume's size when none is named; the host gets its manifest."""
    backup = site.backup(site.instance(volume={"size": 3})["id"])
    reference = f"{ENDPOINT}/v1.0/1234/backups/{backup['id']}"
    answer = _post(site, restorePoint={"backupRef": reference}, databases=[{"name": "more"}])
    assert (answer.status_code, answer.json()["instance"]["volume"]) == (200, {"size": 3})
    task = site.claim()["task"]
    assert task["kind"] == "restore"
    assert task["chain"] == [{"backup_id": backup["id"], "account": "1234", "manifest_sha256": ANY}]
    assert task["instance"]["databases"] == [{"name": "more", "character_set": None, "collate": None}]


def test_restore_refusals(site: Site) -> None:
    """A backup that is not COMPLETED 422, another datastore 400, too small a volume 403 in the contract's words."""
    instance = site.instance()["id"]
    made = site.ok("POST", "/backups", {"backup": {"name": "n", "instance": instance}})["backup"]
    check_fault(_post(site, restorePoint={"backupRef": made["id"]}), 422)
    task = site.claim()["task"]
    result = site.stored_backup(task, size_bytes=3 << 29)
    report = {"session": site.region.session, "attempt": 1, "ok": True, "backup": result}
    assert site.agent(f"tasks/{task['id']}/report", report).status_code == 200
    point = {"restorePoint": {"backupRef": made["id"]}}
    check_fault(_post(site, **point, datastore={"type": "mysql"}), 400)
    small = r"Backup is too large for given flavor or volume\. Backup size: 1\.5 GBs\. Available size: 1 GBs\."
    check_fault(_post(site, **point, volume={"size": 1}), 403, small)
    assert _post(site, **point).status_code == 200


def test_no_host(site: Site) -> None:
    """Where no host is there, what needs one is a 503, and nothing was made."""
    instance = site.instance()["id"]
    site.region.clock.advance(3600)
    check_fault(_post(site, volume={"size": 1}), 503)
    check_fault(site.call("GET", f"/instances/{instance}/databases"), 503)
    check_fault(site.call("POST", f"/instances/{instance}/action", {"restart": {}}), 503)
    assert site.ok("GET", "/datastores") == {"datastores": []}
    assert [row["status"] for row in site.ok("GET", "/instances")["instances"]] == ["ACTIVE"]


def test_list(site: Site) -> None:
    """The account's own, newest first, in pages whose links keep the query; what clients add to it is tolerated."""
    made = [site.instance(name=f"i{number}")["id"] for number in range(3)]
    site.instance(user="other", account="9999")
    query = "include_clustered=False&include_replicas=True&include_ha=True"
    assert [row["id"] for row in site.ok("GET", f"/instances?{query}")["instances"]] == made[::-1]
    page = site.ok("GET", f"/instances?limit=2&{query}")
    assert page["links"] == [
        {"href": f"{ENDPOINT}/v1.0/1234/instances?limit=2&{query}&marker={made[1]}", "rel": "next"}
    ]
    assert [row["id"] for row in site.ok("GET", f"/instances?marker={made[1]}")["instances"]] == [made[0]]


def test_delete_and_restart(site: Site) -> None:
    """Both 202 without a body, and a task for the host."""
    instance = site.instance()["id"]
    answer = site.call("POST", f"/instances/{instance}/action", {"restart": {}})
    assert (answer.status_code, answer.content) == (202, b"")
    assert site.ok("GET", f"/instances/{instance}")["instance"]["status"] == "REBOOT"
    assert site.work()["kind"] == "restart"
    answer = site.call("DELETE", f"/instances/{instance}")
    assert (answer.status_code, answer.content) == (202, b"")
    assert site.ok("GET", f"/instances/{instance}")["instance"]["status"] == "SHUTDOWN"
    assert site.work()["kind"] == "delete"
    check_fault(site.call("GET", f"/instances/{instance}"), 404)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 400),
        ({"frobnicate": {}}, 400),
        ({"restart": {}, "stop": {}}, 400),
        ({"restart": 5}, 400),
        ({"resize": None}, 400),
        ({"resize": {}}, 400),
        ({"resize": {"volume": {"size": 0}}}, 400),
        ({"resize": {"flavorRef": 99}}, 400),
        ({"resize": {"flavorRef": 1, "volume": {"size": 3}}}, 400),
        ({"resize": {"volume": {"size": 2}}}, 400),
        ({"resize": {"volume": {"size": 1}}}, 400),
        ({"resize": {"flavorRef": 1}}, 400),
        ({"start": {}}, 422),
    ],
)
def test_refused_actions(site: Site, body: dict[str, Any], code: int) -> None:
    """An action is one known key; volumes grow, flavors change, and what runs is not started."""
    path = f"/instances/{site.instance()['id']}"
    before = site.ok("GET", path)
    check_fault(site.call("POST", f"{path}/action", body), code)
    assert site.ok("GET", path) == before


ACTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"restart": {}}, "REBOOT", "restart"),
    ({"restart": None}, "REBOOT", "restart"),
    ({"stop": {}}, "SHUTDOWN", "stop"),
    ({"resize": {"flavorRef": "2"}}, "RESIZE", "resize"),
]


@pytest.mark.parametrize(("body", "status", "kind"), ACTIONS)
def test_actions(site: Site, body: dict[str, Any], status: str, kind: str) -> None:
    """202 without a body, a task for the host, and a status meanwhile in which nothing else can be asked for."""
    instance = site.instance()["id"]
    path = f"/instances/{instance}"
    answer = site.call("POST", f"{path}/action", body)
    assert (answer.status_code, answer.content) == (202, b"")
    shown = site.ok("GET", path)["instance"]
    assert (shown["status"], shown["operating_status"], shown["flavor"]["id"]) == (status, "SHUTDOWN", "1")
    words = rf"Instance {instance} is not currently available .*\(instance status was {status}\)\."
    for method, where, more in (
        *[("POST", "/action", action) for action, _, _ in ACTIONS],
        ("POST", "/action", {"start": {}}),
        ("POST", "/action", {"resize": {"volume": {"size": 9}}}),
        ("POST", "/root", None),
        ("DELETE", "", None),
    ):
        check_fault(site.call(method, f"{path}{where}", more), 422, words)
    check_fault(site.call("POST", "/backups", {"backup": {"name": "n", "instance": instance}}), 422, words)
    assert site.work()["kind"] == kind


def test_resize_of_the_flavor(site: Site) -> None:
    """The host is told the new memory and the old; the flavor is another one once the server runs with it."""
    path = f"/instances/{site.instance()['id']}"
    for flavor, ok, shown in (("2", True, "2"), ("http://x/flavors/3", False, "2")):
        site.ok("POST", f"{path}/action", {"resize": {"flavorRef": flavor}})
        task = site.work(ok=ok)
        former = 512 if ok else 1024
        assert task["memory"] == {"ram_mb": 2 * former, "former_ram_mb": former}
        instance = site.ok("GET", path)["instance"]
        assert (instance["status"], instance["flavor"]["id"]) == ("ACTIVE" if ok else "ERROR", shown)
        assert instance.get("reason") == (None if ok else "it was told to fail")


def test_resize_of_the_volume(site: Site) -> None:
    """A larger volume is there at once."""
    path = f"/instances/{site.instance()['id']}"
    assert site.call("POST", f"{path}/action", {"resize": {"volume": {"size": 3}}}).status_code == 202
    shown = site.ok("GET", path)["instance"]
    assert (shown["status"], shown["volume"]) == ("ACTIVE", {"size": 3, "used": 1.0})


def test_stop_and_start(site: Site) -> None:
    """A stopped instance is SHUTDOWN until it is started, or deleted; nothing else can be asked of it meanwhile."""
    instance = site.instance()["id"]
    path = f"/instances/{instance}"
    site.ok("POST", f"{path}/action", {"stop": {}})
    site.work()
    assert site.ok("GET", path)["instance"]["status"] == "SHUTDOWN"
    words = rf"Instance {instance} .*\(instance status was SHUTDOWN\)\."
    for action in [*[body for body, _, _ in ACTIONS], {"resize": {"volume": {"size": 9}}}]:
        check_fault(site.call("POST", f"{path}/action", action), 422, words)
    check_fault(site.call("POST", "/backups", {"backup": {"name": "n", "instance": instance}}), 422, words)
    check_fault(site.call("GET", f"{path}/users"), 422, words)
    site.ok("POST", f"{path}/action", {"start": {}})
    assert site.ok("GET", path)["instance"]["status"] == "REBOOT"
    assert site.work()["kind"] == "start"
    assert site.ok("GET", path)["instance"]["operating_status"] == "HEALTHY"
    site.ok("POST", f"{path}/action", {"stop": {}})
    site.work()
    site.ok("DELETE", path)
    assert site.work()["kind"] == "delete"
    check_fault(site.call("GET", path), 404)


def test_reset_status_of_a_backup(site: Site) -> None:
    """In BACKUP the running backup is cancelled: FAILED with that reason, its host superseded, the instance ACTIVE."""
    instance = site.instance()["id"]
    path = f"/instances/{instance}"
    made = site.ok("POST", "/backups", {"backup": {"name": "n", "instance": instance}})["backup"]
    task = site.claim()["task"]
    assert site.call("POST", f"{path}/action", {"reset_status": {}}).status_code == 202
    assert site.ok("GET", path)["instance"]["status"] == "ACTIVE"
    backup = site.ok("GET", f"/backups/{made['id']}")["backup"]
    assert backup["status"] == "FAILED"
    assert "cancelled" in backup["reason"]
    late = {"session": site.region.session, "attempt": 1, "ok": True, "backup": a_result_of(task)}
    check_fault(site.agent(f"tasks/{task['id']}/report", late), 409)
    assert site.call("DELETE", path).status_code == 202


@pytest.mark.parametrize(
    ("action", "claimed"),
    [(None, True), (None, False), *[(body, True) for body, _, _ in ACTIONS], ({"stop": {}}, False)],
)
def test_reset_status_of_a_task(site: Site, action: dict[str, Any] | None, claimed: bool) -> None:  # noqa: FBT001
    """What hangs in anything else is abandoned: ERROR, with that reason; then it can be deleted."""
    if action is None:
        instance = _post(site, volume={"size": 2}).json()["instance"]["id"]
    else:
        instance = site.instance()["id"]
        site.ok("POST", f"/instances/{instance}/action", action)
    path = f"/instances/{instance}"
    task = site.claim()["task"] if claimed else None
    site.ok("POST", f"{path}/action", {"reset_status": {}})
    shown = site.ok("GET", path)["instance"]
    assert (shown["status"], "reset" in shown["reason"]) == ("ERROR", True)
    if task is not None:
        late = {"session": site.region.session, "attempt": 1, "ok": True}
        check_fault(site.agent(f"tasks/{task['id']}/report", late), 409)
    for _ in range(2):
        site.ok("DELETE", path)
        site.ok("POST", f"{path}/action", {"reset_status": {}})
        assert site.ok("GET", path)["instance"]["status"] == "SHUTDOWN"
    assert site.work()["kind"] == "delete"
    check_fault(site.call("GET", path), 404)


def test_reset_status_of_an_error(site: Site) -> None:
    """ERROR goes when the server runs, and stays when it does not; what is well, or stopped, stays as it is."""
    path = f"/instances/{site.instance()['id']}"

    def reset() -> Any:
        site.ok("POST", f"{path}/action", {"reset_status": {}})
        shown = site.ok("GET", path)["instance"]
        return shown["status"], "reason" in shown

    def says(*, running: bool) -> None:
        state = {"id": path.rpartition("/")[2], "running": running}
        site.agent("heartbeat", {"session": site.region.session, "instances": [state]})

    assert reset() == ("ACTIVE", False)
    says(running=False)
    site.ok("POST", f"{path}/action", {"restart": {}})
    site.work(ok=False)
    assert reset() == ("ERROR", True)
    site.ok("POST", f"{path}/action", {"restart": {}})
    site.work()
    site.ok("POST", f"{path}/action", {"restart": {}})
    site.work(ok=False)
    assert reset() == ("ACTIVE", False)
    site.ok("POST", f"{path}/action", {"stop": {}})
    site.work()
    assert reset() == ("SHUTDOWN", False)


@pytest.mark.parametrize("body", [{}, {"instance": {}}, {"instance": {"name": ""}}, {"instance": {"name": 5}}])
def test_bad_rename(site: Site, body: dict[str, Any]) -> None:
    """A rename needs a name."""
    check_fault(site.call("PATCH", f"/instances/{UNKNOWN}", body), 400)


@pytest.mark.parametrize("instance", [UNKNOWN, "zz"])
def test_unknown_instance(site: Site, instance: str) -> None:
    """An id that was never given is a 404 wherever it stands."""
    path = f"/instances/{instance}"
    for method, where, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", {"instance": {"name": "n"}}),
        ("POST", "/action", {"restart": {}}),
        ("POST", "/action", {"stop": {}}),
        ("POST", "/action", {"start": {}}),
        ("POST", "/action", {"resize": {"flavorRef": 2}}),
        ("POST", "/action", {"resize": {"volume": {"size": 9}}}),
        ("POST", "/action", {"reset_status": {}}),
        ("GET", "/root", None),
        ("POST", "/root", None),
        ("GET", "/databases", None),
        ("POST", "/databases", {"databases": [{"name": "d"}]}),
        ("DELETE", "/databases/d", None),
        ("GET", "/users", None),
        ("POST", "/users", {"users": [{"name": "u", "password": "p"}]}),
        ("GET", "/users/u", None),
        ("DELETE", "/users/u", None),
        ("PUT", "/users/u/databases", {"databases": [{"name": "d"}]}),
    ):
        check_fault(site.call(method, f"{path}{where}", body), 404, f"Instance '{instance}' cannot be found.")


def test_a_restore_shows_its_progress(site: Site) -> None:
    """How far a restore is stands in its instance until it is ACTIVE; a create that restores nothing has none."""
    backup = site.backup(site.instance()["id"])
    made = _post(site, restorePoint={"backupRef": backup["id"]}).json()["instance"]
    task = site.claim()["task"]
    told = {"step": "extracting", "done_bytes": 10, "expected_bytes": 40, "bytes_per_s": 20}
    site.agent(f"tasks/{task['id']}/progress", {"session": site.region.session, "attempt": 1, **told})
    shown = site.ok("GET", f"/instances/{made['id']}")["instance"]
    assert shown["progress"] == {**told, "percent": 25, "seconds_left": 2}
    result = {"address": "127.77.0.9", "port": 3306, "used_bytes": 5, "full_version": "10.11.19"}
    report = {"session": site.region.session, "attempt": 1, "ok": True, "instance": result}
    site.agent(f"tasks/{task['id']}/report", report)
    assert "progress" not in site.ok("GET", f"/instances/{made['id']}")["instance"]
