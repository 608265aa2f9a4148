"""Limits: how often, how many, and what is said about it (contract, section 8)."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaphold.api import create_app
from snaphold.catalog.database import open_catalog
from snaphold.engines.password_hashes import PASSWORD_HASHES
from snaphold.formats.stored_backups import StoredBackups
from snaphold.model import Rate
from tests.api.site import AnsweringHost, Site, StoredObjects, check_fault, opened_site, served

TWO_EACH: dict[str, Any] = {f"{rate}_per_minute": 2 for rate in Rate if rate not in {Rate.READS, Rate.LOGINS}}
USER = {"users": [{"name": "u", "password": "p"}]}


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Site]:
    """A site that accepts two requests of a kind a minute, but for logins and reads; and its host answers."""
    with opened_site(tmp_path, rate_factor=1, **TWO_EACH) as site, AnsweringHost(site):
        yield site


def everything(site: Site) -> list[Any]:
    """What there is."""
    return [site.ok("GET", f"/{kind}") for kind in ("instances", "backups", "schedules")]


def create(site: Site) -> httpx.Response:
    """An instance."""
    body = {"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}}}
    answer = site.call("POST", "/instances", body)
    if answer.is_success:
        site.work()
    return answer


def oldest(site: Site, kind: str) -> str:
    """The id of the oldest backup or instance that is ACTIVE or COMPLETED."""
    rows = [row for row in site.ok("GET", f"/{kind}")[kind] if row["status"] in {"ACTIVE", "COMPLETED"}]
    return str(rows[-1]["id"])


def delete(site: Site) -> httpx.Response:
    """A delete of an instance, which is gone then."""
    answer = site.call("DELETE", f"/instances/{oldest(site, 'instances')}")
    if answer.is_success:
        site.work()
    return answer


def back_up(site: Site) -> httpx.Response:
    """A backup."""
    answer = site.call("POST", "/backups", {"backup": {"name": "b", "instance": oldest(site, "instances")}})
    if answer.is_success:
        site.work()
    return answer


def forget(site: Site) -> httpx.Response:
    """A delete of a backup."""
    return site.call("DELETE", f"/backups/{oldest(site, 'backups')}")


def restart(site: Site) -> httpx.Response:
    """An action on an instance."""
    answer = site.call("POST", f"/instances/{oldest(site, 'instances')}/action", {"restart": {}})
    if answer.is_success:
        site.work()
    return answer


def add_user(site: Site) -> httpx.Response:
    """A write of users."""
    return site.call("POST", f"/instances/{oldest(site, 'instances')}/users", USER)


def rename(site: Site) -> httpx.Response:
    """A rename of an instance."""
    return site.call("PATCH", f"/instances/{oldest(site, 'instances')}", {"instance": {"name": "renamed"}})


def schedule(site: Site) -> httpx.Response:
    """A schedule: made, then changed, then deleted."""
    made = site.ok("GET", "/schedules")["schedules"]
    if not made:
        wanted = {
            "action": "backup",
            "instance_id": oldest(site, "instances"),
            "hour": 3,
            "minute": 0,
            "day_of_week": 0,
        }
        return site.call("POST", "/schedules", {"schedule": wanted})
    path = f"/schedules/{made[0]['id']}"
    if made[0]["hour"] == 3:
        return site.call("PUT", path, {"schedule": {"hour": 4}})
    return site.call("DELETE", path)


@pytest.mark.parametrize(
    ("rate", "ask"),
    [
        (Rate.INSTANCE_CREATES, create),
        (Rate.INSTANCE_DELETES, delete),
        (Rate.INSTANCE_ACTIONS, restart),
        (Rate.INSTANCE_RENAMES, rename),
        (Rate.SCHEDULE_WRITES, schedule),
        (Rate.BACKUP_CREATES, back_up),
        (Rate.BACKUP_DELETES, forget),
        (Rate.USER_WRITES, add_user),
    ],
)
def test_one_too_many(strict: Site, rate: Rate, ask: Callable[[Site], httpx.Response]) -> None:
    """Of each kind as many as allowed in any minute; the next is a 413 that says when to come, and does nothing."""
    for _ in range(2):
        if rate is not Rate.INSTANCE_CREATES:
            create(strict)
        if rate is Rate.BACKUP_DELETES:
            back_up(strict)
    if rate is Rate.INSTANCE_DELETES:
        strict.region.clock.advance(60)
        strict.region.heartbeat()
        create(strict)
        create(strict)
    assert ask(strict).is_success
    strict.region.clock.advance(20)
    assert ask(strict).is_success
    before = everything(strict)
    for seconds in (40, 1):
        answer = ask(strict)
        check_fault(answer, 413, rf"Only 2 of these requests are allowed in a minute\. Retry in {seconds} s\.")
        assert answer.headers["Retry-After"] == str(seconds)
        assert answer.json()["overLimit"]["retryAfter"] == seconds
        assert everything(strict) == before
        strict.region.clock.advance(seconds - 1 or 1)
        strict.region.heartbeat()
    assert ask(strict).is_success
    check_fault(ask(strict), 413)


def test_a_refused_request_is_none(strict: Site) -> None:
    """What is refused for another reason does not count, and other accounts count by themselves."""
    create(strict)
    instance = oldest(strict, "instances")
    path = f"/instances/{instance}"
    for _ in range(3):
        check_fault(strict.call("POST", f"{path}/action", {"start": {}}), 422)
        check_fault(strict.call("POST", f"{path}/action", {"resize": {"volume": {"size": 1}}}), 400)
        check_fault(strict.call("DELETE", "/instances/zz"), 404)
        check_fault(strict.call("DELETE", path, user="creator"), 403)
        check_fault(strict.call("POST", "/backups", {"backup": {"name": "b", "instance": "zz"}}), 404)
    shown = strict.ok("GET", "/limits")["limits"][1:]
    assert [row["remaining"] for row in shown] == [1 if row["uri"] == "/instances" else 2 for row in shown]
    assert create(strict).is_success
    assert strict.instance(user="other", account="9999")["status"] == "ACTIVE"
    check_fault(create(strict), 413)


def test_several_processes_count_together(strict: Site, tmp_path: Path) -> None:
    """Two API processes on one catalog accept together what one would, however the requests come at once."""
    region = strict.region
    with_clock = open_catalog(tmp_path / "catalog.db", region.clock)
    app = create_app(
        replace(region.deployment, catalog=with_clock),
        strict.identity,
        regions={"DFW": strict.url},
        object_reader=StoredObjects(strict.stores),
        stored_backups=StoredBackups(strict.stores),
        password_hashes=PASSWORD_HASHES,
        containers=strict.stores.of,
    )
    create(strict)
    instance, token = oldest(strict, "instances"), strict.token("demo")
    codes: list[int] = []
    with served(app) as second:

        def ask(url: str) -> None:
            body = {"resize": {"volume": {"size": 50}}}
            where = f"{url}/v1.0/1234/instances/{instance}/action"
            codes.append(httpx.post(where, json=body, headers={"X-Auth-Token": token}, timeout=60).status_code)
            body = {"stop": {}}
            codes.append(httpx.post(where, json=body, headers={"X-Auth-Token": token}, timeout=60).status_code)

        threads = [threading.Thread(target=ask, args=(url,)) for url in (strict.url, second) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with_clock.close()
    assert codes.count(202) == 2
    assert set(codes) <= {202, 400, 413, 422}


def test_limits_are_shown(tmp_path: Path) -> None:
    """What is limited at all, what is left of it, and when more is: the absolute limits first."""
    settings: dict[str, Any] = {
        "rate_factor": 2,
        "max_backups_per_account": 9,
        "max_instances_per_account": 7,
        "max_volume_gb_per_account": 70,
        "backup_deletes_per_minute": 0,
    }
    with opened_site(tmp_path, **settings) as site:
        for _ in range(3):
            site.instance()
        absolute, *rates = site.ok("GET", "/limits")["limits"]
        assert absolute == {
            "verb": "ABSOLUTE",
            "max_backups": 9,
            "max_running_backups": 0,
            "max_instances": 7,
            "max_volumes": 70,
            "max_page": 100,
            "max_body_bytes": 1 << 20,
        }
        assert [(row["verb"], row["uri"], row["value"], row["remaining"]) for row in rates] == [
            ("POST", "/backups", 200, 200),
            ("POST", "/backups/*/action", 40, 40),
            ("POST", "/instances", 40, 37),
            ("DELETE", "/instances/*", 40, 40),
            ("POST", "/instances/*/action", 10, 10),
            ("PATCH", "/instances/*", 40, 40),
            ("POST, PUT, DELETE", "/schedules", 40, 40),
            ("POST, PUT, DELETE", "/instances/*/{databases,users,root}", 100, 100),
        ]
        assert {(row["unit"], row["nextAvailable"]) for row in rates} == {("MINUTE", "2023-11-14T22:13:21Z")}


def test_logins(tmp_path: Path) -> None:
    """Of one user so many attempts a minute, good ones and bad ones, by whatever way; other users are not held up."""
    with opened_site(tmp_path, rate_factor=1, logins_per_minute=2) as site:
        site.identity.add_account("1234", "own", "right", [])

        def log_in(user: str, password: str, *, v3: bool = False) -> httpx.Response:
            identity = {"methods": ["password"], "password": {"user": {"name": user, "password": password}}}
            older = {"auth": {"passwordCredentials": {"username": user, "password": password}}}
            if v3:
                return site.send("POST", "/v3/auth/tokens", json={"auth": {"identity": identity}})
            return site.send("POST", "/v2.0/tokens", json=older)

        check_fault(log_in("own", "wrong"), 401)
        assert log_in("own", "right", v3=True).status_code == 201
        for v3 in (False, True):
            answer = log_in("own", "right", v3=v3)
            check_fault(answer, 413)
            assert answer.headers["Retry-After"] == "60"
        assert site.token("demo")


def test_reads_where_they_are_limited(tmp_path: Path) -> None:
    """Reads are limited only where an operator says so; writes do not count as reads."""
    with opened_site(tmp_path, rate_factor=1, reads_per_minute=2) as site:
        site.ok("POST", "/instances", {"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}}})
        site.ok("GET", "/backups")
        assert site.ok("GET", "/limits")["limits"][-1]["remaining"] == 0
        check_fault(site.call("GET", "/flavors"), 413)
        site.region.clock.advance(60)
        site.ok("GET", "/flavors")


def test_a_clock_that_was_put_back_locks_nobody_out(strict: Site) -> None:
    """Calls of the future are forgotten with the others."""
    create(strict)
    create(strict)
    check_fault(create(strict), 413)
    strict.region.clock.advance(-3600)
    assert create(strict).is_success


def test_quota_of_backups(tmp_path: Path) -> None:
    """An account may have so many backups, failed ones counted; waiting does not help, so nothing is said of it."""
    with opened_site(tmp_path, max_backups_per_account=2) as site:
        instance = site.instance()["id"]
        first = site.backup(instance)["id"]
        site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})
        site.work(ok=False)
        body = {"backup": {"name": "b", "instance": instance}}
        for _ in range(2):
            answer = site.call("POST", "/backups", body)
            check_fault(answer, 413, r"The account has 2 backups already, which is its limit\.")
            assert "Retry-After" not in answer.headers
            assert "retryAfter" not in answer.json()["overLimit"]
        check_fault(site.call("POST", "/backups", {"backup": {**body["backup"], "parent_id": "zz"}}), 404)
        assert site.ok("GET", f"/instances/{instance}")["instance"]["status"] == "ACTIVE"
        site.ok("DELETE", f"/backups/{first}")
        check_fault(site.call("POST", "/backups", body), 413)


def test_quotas_of_instances_and_volumes(tmp_path: Path) -> None:
    """One instance, or one GB, more than an account may have is a 413 for good; others are not hit."""
    with opened_site(tmp_path, max_instances_per_account=2, max_volume_gb_per_account=5) as site:
        first = site.instance(volume={"size": 2})
        too_large = {"instance": {"flavorRef": 1, "volume": {"size": 4}}}
        words = "The account's volumes have 2 GB already; the limit of all together is 5 GB."
        answer = site.call("POST", "/instances", too_large)
        check_fault(answer, 413, words)
        assert "Retry-After" not in answer.headers
        resize = {"resize": {"volume": {"size": 6}}}
        check_fault(site.call("POST", f"/instances/{first['id']}/action", resize), 413, words)
        site.instance(volume={"size": 1})
        one_more = {"instance": {"flavorRef": 1, "volume": {"size": 1}}}
        check_fault(
            site.call("POST", "/instances", one_more), 413, "The account has 2 instances already; its limit is 2."
        )
        assert site.call("POST", "/instances", one_more, user="other", account="9999").status_code == 200
        site.claim()
        assert site.call("DELETE", f"/instances/{first['id']}").status_code == 202
        site.work()
        assert site.call("POST", "/instances", one_more).status_code == 200
