from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from snaphold.service import hosts
from tests.api.site import Site, check_fault, poll, routes_of

NOTHING: dict[str, Any] = {"task": None, "question": None, "given_up": []}


def _hello(session: str) -> dict[str, Any]:
    return {
        "session": session,
        "datastores": [{"type": "mariadb", "version": "10.11", "full_version": "10.11.19"}],
        "instances": [{"id": "unknown", "running": True}],
        "shared_system_user": False,
        "accepts_shared": True,
    }


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic eDp5"}, {"X-Auth-Token": "CALLER"}]
)
def test_every_route_wants_a_hosts_token(site: Site, headers: dict[str, str]) -> None:
    """All routes of agents: without a host's token 401, with a caller's too."""
    given = {name: site.token("demo") if value == "CALLER" else value for name, value in headers.items()}
    routes = routes_of(site.app, under="/agent/")
    assert len(routes) == 6
    for method, path in routes:
        check_fault(site.send(method, path, content=b"{,}", headers=given), 401)


def test_a_hosts_token_is_no_callers(site: Site) -> None:
    """A host can read no account with its token."""
    check_fault(site.send("GET", "/v1.0/1234/backups", headers={"X-Auth-Token": site.region.token}), 401)


def test_hello_and_heartbeat(site: Site) -> None:
    """Hello tells who one is and what is wanted of the instances; another session is overtaken by it."""
    instance = site.instance()["id"]
    hello = _hello("s2")
    hello["instances"].append({"id": instance, "running": True, "used_bytes": 3 << 29})
    welcome = site.agent("hello", hello).json()
    assert welcome == {
        "host_id": site.region.host_id,
        "region": "DFW",
        "lease_s": 30.0,
        "renew_s": 10.0,
        "instances": {instance: "running"},
    }
    assert site.ok("GET", f"/instances/{instance}")["instance"]["volume"] == {"size": 2, "used": 1.5}
    assert site.agent("heartbeat", {"session": "s2", "instances": []}).json() == {"instances": {}}
    check_fault(site.agent("heartbeat", {"session": site.region.session, "instances": []}), 409)
    check_fault(site.agent("claim", {"session": site.region.session, "wait_s": 0}), 409)


def test_claim_at_once(site: Site) -> None:
    """What waits is handed out at once, once; nothing is an empty answer."""
    assert site.claim() == NOTHING
    site.ok("POST", "/instances", {"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}}})
    body = {"session": site.region.session, "wait_s": 30, "accept_tasks": True}
    assert site.agent("claim", {**body, "wait_s": 0, "accept_tasks": False}).json()["task"] is None
    task = site.agent("claim", body).json()["task"]
    assert (task["kind"], task["attempt"]) == ("create", 1)
    assert site.claim() == NOTHING


def test_claim_is_woken(site: Site) -> None:
    """A claim that waits gets what comes up meanwhile, long before its time is over."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(site.claim, 30)
        poll(lambda: bool(site.region.deployment.wakeups._callbacks))
        site.ok("POST", "/instances", {"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}}})
        assert waiting.result(20)["task"]["kind"] == "create"
    assert not site.region.deployment.wakeups._callbacks


def test_claim_in_vain(site: Site) -> None:
    """A claim ends empty when its time is over."""
    assert site.claim(0.6) == NOTHING


def test_claim_of_one_who_left(site: Site) -> None:
    """An agent that has hung up is handed nothing: its task waits for the next claim."""
    headers = {"Authorization": f"Bearer {site.region.token}"}
    body = {"session": site.region.session, "wait_s": 60}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{site.url}/agent/v1/claim", json=body, headers=headers, timeout=0.3)
    poll(lambda: not site.region.deployment.wakeups._callbacks)
    site.ok("POST", "/instances", {"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}}})
    assert site.claim()["task"]["kind"] == "create"


def test_claims_end_with_the_process(site: Site) -> None:
    """When the process is told to end, claims that wait are answered."""
    ending = site.app.state.desk.ending
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(site.claim, 60)
        poll(lambda: bool(site.region.deployment.wakeups._callbacks))
        ending.set()
        assert waiting.result(20) == NOTHING


def test_overtaken(site: Site) -> None:
    """Progress and report of an attempt that is not the current one: 409, and nothing is written."""
    instance = site.instance()["id"]
    made = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})["backup"]
    task = site.claim()["task"]
    stale = {"session": site.region.session, "attempt": 2}
    for path, more in (("progress", {}), ("report", {"ok": True})):
        check_fault(site.agent(f"tasks/{task['id']}/{path}", {**stale, **more}), 409)
    assert site.ok("GET", f"/backups/{made['id']}")["backup"]["status"] == "BUILDING"


def test_a_task_that_is_not_known(site: Site) -> None:
    """Its attempt goes on, for nobody has given it up (the record was lost); its report is refused."""
    mine = {"session": site.region.session, "attempt": 1}
    assert site.agent("tasks/unknown/progress", mine).json() == {}
    claim = {"session": site.region.session, "wait_s": 0, "at_work": {"unknown": 1}}
    assert site.agent("claim", claim).json() == NOTHING
    check_fault(site.agent("tasks/unknown/report", {**mine, "ok": True}), 409)


def test_another_hosts_task(site: Site) -> None:
    """A host's token is good for its own tasks only."""
    token = hosts.add_host(site.region.deployment, "other-host")
    site.ok("POST", "/instances", {"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}}})
    task = site.claim()["task"]
    site.agent("hello", _hello(site.region.session), token=token)
    report = {"session": site.region.session, "attempt": 1, "ok": False, "reason": "mischief"}
    check_fault(site.agent(f"tasks/{task['id']}/report", report, token=token), 409)
    claim = {"session": site.region.session, "wait_s": 0}
    assert site.agent("claim", claim, token=token).json() == NOTHING


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("hello", {}),
        ("heartbeat", {"session": 5, "instances": []}),
        ("claim", {"session": "s", "wait_s": 61}),
        ("claim", {"session": "s", "wait_s": -1}),
        ("tasks/x/report", {"session": "s"}),
        ("questions/x/answer", []),
    ],
)
def test_bad_messages(site: Site, path: str, body: object) -> None:
    """What is no message of the protocol is a 400."""
    check_fault(site.agent(path, body), 400)


def test_answer_nobody_waits_for(site: Site) -> None:
    """An answer that comes too late is taken, and forgotten."""
    assert site.agent("questions/unknown/answer", {"session": site.region.session, "ok": True}).json() == {}
