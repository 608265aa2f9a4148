import uuid
from typing import Any

import pytest

from snaphold.worker.schedules import Scheduler
from tests.api.site import Site, check_fault

UNKNOWN = str(uuid.UUID(int=7))
SUNDAYS = {"action": "backup", "day_of_week": 0, "hour": 14, "minute": 30}

REFUSED: list[tuple[dict[str, Any], int]] = [
    ({"instance_id": UNKNOWN}, 404),
    ({"instance_id": None, "source_id": UNKNOWN, "source_type": "instance"}, 404),
    ({"instance_id": None, "source_id": UNKNOWN, "source_type": "ha"}, 404),
    ({"instance_id": None}, 400),
    ({"source_id": UNKNOWN, "source_type": "instance"}, 400),
    ({"source_type": "ha"}, 400),
    ({"source_type": "cluster"}, 400),
    ({"action": "restart"}, 400),
    ({"action": None}, 400),
    ({"day_of_week": 8}, 400),
    ({"day_of_week": None}, 400),
    ({"hour": 24}, 400),
    ({"hour": "x"}, 400),
    ({"minute": -1}, 400),
    ({"minute": True}, 400),
    ({"full_backup_retention": 1}, 400),
    ({"full_backup_retention": "two"}, 400),
    ({"copy_to": [5]}, 400),
    ({"copy_to": ["LON"]}, 400),
    ({"copy_to": ["DFW"]}, 400),
    ({"copy_to": "IAD,XXX"}, 400),
]
CHANGES_REFUSED: list[dict[str, Any]] = [
    {"action": "restart"},
    {"instance_id": UNKNOWN},
    {"source_id": UNKNOWN},
    {"day_of_week": -1},
    {"hour": 24},
    {"minute": 60},
    {"full_backup_retention": 1},
    {"copy_to": ["LON"]},
    {"copy_to": 5},
    {"run_now": "yes"},
    {"run_now": 1},
]


def make(site: Site, instance: str, **change: Any) -> Any:
    """A schedule, 14:30 with its fulls on Sundays."""
    return site.ok("POST", "/schedules", {"schedule": {**SUNDAYS, "instance_id": instance, **change}})["schedule"]


def run_due(site: Site) -> None:
    """A round of the worker."""
    Scheduler(site.region.deployment).run()


def test_every_field(site: Site) -> None:
    """The answer has what was asked for, the defaults, the times, and the keys that clients look for."""
    instance = site.instance()["id"]
    made = make(site, instance)
    assert made == {
        "id": made["id"],
        "action": "backup",
        "instance_id": instance,
        "source_type": "instance",
        "source_id": instance,
        "minute": 30,
        "hour": 14,
        "day_of_week": 0,
        "day_of_month": None,
        "month": None,
        "full_backup_retention": 2,
        "copy_to": None,
        "next_run": "2023-11-15T14:30:00Z",
        "last_scheduled": None,
        "created": "2023-11-14T22:13:20Z",
        "updated": "2023-11-14T22:13:20Z",
    }
    assert site.ok("GET", f"/schedules/{made['id']}") == {"schedule": made}
    assert site.ok("GET", "/schedules") == {"schedules": [made]}


def test_create_refused(site: Site) -> None:
    """What cannot be meant is a 400, an unknown source a 404; nothing is made."""
    instance = site.instance()["id"]
    for change, code in REFUSED:
        body = {"schedule": {**SUNDAYS, "instance_id": instance, **change}}
        check_fault(site.call("POST", "/schedules", body), code)
    assert site.ok("GET", "/schedules") == {"schedules": []}


def test_create_as_clients_send_it(site: Site) -> None:
    """Numbers may come as text, and what is not meant as null."""
    instance = site.instance()["id"]
    nothing = {"source_id": None, "source_type": None, "copy_to": None}
    made = make(site, instance, day_of_week="7", hour="3", minute="0", full_backup_retention="5", **nothing)
    assert (made["day_of_week"], made["hour"], made["minute"], made["full_backup_retention"]) == (7, 3, 0, 5)
    site.ok("DELETE", f"/schedules/{made['id']}")
    again = make(site, instance, instance_id=None, source_id=instance, source_type="instance", copy_to=[])
    assert (again["instance_id"], again["copy_to"]) == (instance, None)


def test_one_of_an_instance(site: Site) -> None:
    """A second schedule of an instance is a 400 until the first is deleted."""
    instance = site.instance()["id"]
    made = make(site, instance)
    second = site.call("POST", "/schedules", {"schedule": {**SUNDAYS, "instance_id": instance}})
    check_fault(second, 400, f"Instance {instance} has a schedule already.")
    site.ok("DELETE", f"/schedules/{made['id']}")
    check_fault(site.call("GET", f"/schedules/{made['id']}"), 404)
    make(site, instance)


def test_change(site: Site) -> None:
    """What is named changes, what is left out or null stays; another time of day moves the next run."""
    made = make(site, site.instance()["id"])
    path = f"/schedules/{made['id']}"
    for wanted, changed in (
        ({}, {}),
        ({"run_now": False, "copy_to": None, "day_of_week": None}, {}),
        ({"full_backup_retention": 4, "day_of_week": 7}, {"full_backup_retention": 4, "day_of_week": 7}),
        ({"hour": 23, "instance_id": made["instance_id"]}, {"hour": 23, "next_run": "2023-11-14T23:30:00Z"}),
        ({"minute": "0", "action": "backup"}, {"minute": 0, "next_run": "2023-11-14T23:00:00Z"}),
        ({"run_now": "true"}, {"next_run": "2023-11-14T22:13:20Z"}),
    ):
        answer = site.call("PUT", path, {"schedule": wanted})
        made |= changed
        assert (answer.status_code, answer.json()) == (202, {"schedule": made})
        assert site.ok("GET", path) == {"schedule": made}


def test_change_refused(site: Site) -> None:
    """What cannot be meant is a 400, and the schedule stays as it was."""
    made = make(site, site.instance()["id"])
    for fields in CHANGES_REFUSED:
        check_fault(site.call("PUT", f"/schedules/{made['id']}", {"schedule": fields}), 400)
    assert site.ok("GET", f"/schedules/{made['id']}") == {"schedule": made}


def test_unknown_and_foreign(site: Site) -> None:
    """An unknown schedule and another account's: the same 404 for each method, and nothing has changed."""
    made = make(site, site.instance()["id"])
    for schedule_id, user, account in (
        (UNKNOWN, "demo", "1234"),
        ("zz", "demo", "1234"),
        (made["id"], "other", "9999"),
    ):
        for method, body in (("GET", None), ("PUT", {"schedule": {"run_now": "true"}}), ("DELETE", None)):
            answer = site.call(method, f"/schedules/{schedule_id}", body, user=user, account=account)
            check_fault(answer, 404, f"Schedule '{schedule_id}' cannot be found.")
    assert site.ok("GET", "/schedules", user="other", account="9999") == {"schedules": []}
    assert site.ok("GET", f"/schedules/{made['id']}") == {"schedule": made}


def test_pages_and_filters(site: Site) -> None:
    """Newest first, a page at a time; the marker's own schedule may be deleted meanwhile. Filters keep what fits."""
    instances = [site.instance()["id"] for _ in range(3)]
    made = [make(site, instance) for instance in instances]
    page = site.ok("GET", "/schedules?limit=2&action=backup")
    assert page["schedules"] == [made[2], made[1]]
    site.ok("DELETE", f"/schedules/{made[1]['id']}")
    (link,) = page["links"]
    following = site.send("GET", link["href"].partition(":8779")[2], headers={"X-Auth-Token": site.token("demo")})
    assert following.json() == {"schedules": [made[0]]}
    assert site.ok("GET", f"/schedules?source_id={instances[0]}&source_type=instance") == {"schedules": [made[0]]}
    assert site.ok("GET", "/schedules?source_type=ha") == {"schedules": []}
    assert site.ok("GET", "/schedules?action=restart") == {"schedules": []}
    check_fault(site.call("GET", f"/schedules?marker={UNKNOWN}"), 400)


def test_run_now(site: Site) -> None:
    """The next round of the worker takes the backup: automated, and its answers say so with a 1."""
    instance = site.instance()["id"]
    made = make(site, instance)
    site.ok("PUT", f"/schedules/{made['id']}", {"schedule": {"run_now": "true"}})
    run_due(site)
    (backup,) = site.ok("GET", "/backups")["backups"]
    assert (backup["instance_id"], backup["is_automated"], backup["type"]) == (instance, 1, "InnoBackupEx")
    assert backup["name"] == "automated 2023-11-14T22:13:20Z"
    shown = site.ok("GET", f"/schedules/{made['id']}")["schedule"]
    assert (shown["last_scheduled"], shown["next_run"]) == ("2023-11-14T22:13:20Z", "2023-11-15T14:30:00Z")
    assert shown["updated"] == "2023-11-14T22:13:20Z"


def test_deleting_an_instance(site: Site) -> None:
    """Its schedule goes with it, its backups stay; while it is being deleted it gets no new one."""
    instance = site.instance()["id"]
    made = make(site, instance)
    backup = site.backup(instance)
    site.ok("DELETE", f"/instances/{instance}")
    check_fault(site.call("GET", f"/schedules/{made['id']}"), 404)
    check_fault(site.call("POST", "/schedules", {"schedule": {**SUNDAYS, "instance_id": instance}}), 422)
    site.work()
    check_fault(site.call("POST", "/schedules", {"schedule": {**SUNDAYS, "instance_id": instance}}), 404)
    assert site.ok("GET", f"/backups/{backup['id']}")["backup"]["status"] == "COMPLETED"


@pytest.mark.parametrize(("user", "codes"), [("observer", (403, 403, 403)), ("creator", (202, 202, 403))])
def test_roles(site: Site, user: str, codes: tuple[int, int, int]) -> None:
    """An observer only looks, a creator deletes nothing."""
    body = {"schedule": {**SUNDAYS, "instance_id": site.instance()["id"]}}
    assert site.call("POST", "/schedules", body, user=user).status_code == codes[0]
    if codes[0] != 202:
        site.ok("POST", "/schedules", body)
    (made,) = site.ok("GET", "/schedules", user=user)["schedules"]
    path = f"/schedules/{made['id']}"
    assert site.call("PUT", path, {"schedule": {"run_now": "true"}}, user=user).status_code == codes[1]
    assert site.call("DELETE", path, user=user).status_code == codes[2]


def test_copies_need_a_peer(site: Site) -> None:
    """A schedule with copies answers like a backup with copies."""
    instance = site.instance()["id"]
    body = {"schedule": {**SUNDAYS, "instance_id": instance, "copy_to": "IAD, ORD"}}
    check_fault(site.call("POST", "/schedules", body), 400)
    made = make(site, instance)
    check_fault(site.call("PUT", f"/schedules/{made['id']}", {"schedule": {"copy_to": ["IAD"]}}), 400)
