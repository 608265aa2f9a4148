import hashlib
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from snaphold.formats.manifest import IndexFacts
from snaphold.formats.stored_backups import StoredBackups
from snaphold.protocol import MAX_FAULT, MAX_INSTANCES, MAX_REASON, InstanceState
from snaphold.service import host_registry
from tests.api.site import (
    Site,
    UnavailableStores,
    a_manifest_of,
    a_result_of,
    check_fault,
    opened_site,
    poll,
    routes_of,
)

NOTHING: dict[str, Any] = {"task": None, "question": None, "given_up": []}
OK: dict[str, Any] = {"session": "s", "attempt": 1, "ok": True}
BUILT: dict[str, Any] = {"address": "127.77.0.1", "port": 3306, "used_bytes": 1, "full_version": "10.11.19"}
TAKEN: dict[str, Any] = {
    "manifest_sha256": "0" * 64,
    "size_bytes": 1,
    "object_bytes": 1,
    "object_name": f"{uuid.uuid4()}.xbstream.gz",
    "incarnation": "i",
    "from_lsn": None,
    "checkpoint_lsn": 1,
    "to_lsn": 2,
    "updated": "2026-01-02T03:04:05Z",
}


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
    """Hello tells who one is and what is wanted of the instances; another session is superseded by it."""
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
    ending = site.app.state.context.ending
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
    """Its attempt goes on, for nobody has given it up (the catalog was lost); its report is refused."""
    mine = {"session": site.region.session, "attempt": 1}
    assert site.agent("tasks/unknown/progress", mine).json() == {}
    claim = {"session": site.region.session, "wait_s": 0, "at_work": {"unknown": 1}}
    assert site.agent("claim", claim).json() == NOTHING
    check_fault(site.agent("tasks/unknown/report", {**mine, "ok": True}), 409)


def test_another_hosts_task(site: Site) -> None:
    """A host's token is good for its own tasks only."""
    token = host_registry.add_host(site.region.deployment, "other-host")
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
        ("hello", _hello("s" * 37)),
        ("hello", {**_hello("s2"), "instances": [{"id": "i", "running": True}] * (MAX_INSTANCES + 1)}),
        ("hello", {**_hello("s2"), "instances": [{"id": "../i", "running": True}]}),
        ("hello", {**_hello("s2"), "instances": [{"id": "i", "running": True, "max_lsn": 1 << 63}]}),
        ("hello", {**_hello("s2"), "datastores": [{"type": "<b>", "version": "10.11", "full_version": "10.11.19"}]}),
        ("hello", {**_hello("s2"), "datastores": [{"type": "mariadb", "version": "10", "full_version": "10.11.19"}]}),
        ("claim", {"session": "s", "wait_s": 0, "at_work": {f"t{n}": 1 for n in range(1_001)}}),
        ("tasks/x/progress", {"session": "s", "attempt": 1, "step": "s" * 65}),
        ("tasks/x/progress", {"session": "s", "attempt": 1, "step": "\x1b[31m"}),
        ("tasks/x/report", {**OK, "instance": {**BUILT, "address": "<script>alert(1)</script>"}}),
        ("tasks/x/report", {**OK, "instance": {**BUILT, "address": "db.example.com"}}),
        ("tasks/x/report", {**OK, "instance": {**BUILT, "port": 65_536}}),
        ("tasks/x/report", {**OK, "backup": {**TAKEN, "object_name": "../1.xbstream.gz"}}),
        ("tasks/x/report", {**OK, "backup": {**TAKEN, "manifest_sha256": "no hash"}}),
        ("tasks/x/report", {**OK, "backup": {**TAKEN, "to_lsn": -1}}),
        ("tasks/x/report", {**OK, "backup": {**TAKEN, "updated": "2026-02-30T00:00:00Z"}}),
        ("tasks/x/report", {**OK, "proof": {"status": "passed", "level": "restore", "at": "today", "seconds": 1}}),
    ],
)
def test_bad_messages(site: Site, path: str, body: object) -> None:
    """What is no message of the protocol, in form, number or size, is a 400."""
    check_fault(site.agent(path, body), 400)


def test_reasons_are_cut(site: Site) -> None:
    """However long a host's reason is, what is kept of it has an end, and no control characters."""
    instance = site.ok("POST", "/instances", {"instance": {"flavorRef": 1, "volume": {"size": 1}}})["instance"]["id"]
    task = site.claim()["task"]
    report = {"session": site.region.session, "attempt": 1, "ok": False, "reason": "\x1b[31m" + "x" * 100_000}
    assert site.agent(f"tasks/{task['id']}/report", report).status_code == 200
    reason = site.ok("GET", f"/instances/{instance}")["instance"]["reason"]
    assert len(reason) <= MAX_REASON
    assert reason.isprintable()


def test_faults_of_instances_are_cut() -> None:
    """Of each of thousands a short text is kept, with a space for whatever cannot be printed."""
    faults = ["x" * 1000, "a\u202eb\x1b\nc" * 200]
    states = [InstanceState(id="i", running=False, fault=fault).fault for fault in faults]
    assert states == ["x" * MAX_FAULT, ("a b \nc" * 200)[:MAX_FAULT]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"manifest_sha256": "1" * 64}, "The manifest of backup .* is another one."),
        ({"object_bytes": 7}, "The data object of backup .* has another length."),
        ({"object_name": f"{uuid.uuid4()}.xbstream.gz"}, "The object .* is not backup .*"),
        ({"object_name": "{id}.xbstream.zst"}, "The data object of backup .* is not in the store."),
        ({"parent_id": str(uuid.uuid4())}, "The manifest of backup .* does not say what was reported."),
        ({"to_lsn": 201}, "The manifest of backup .* does not say what was reported."),
        ({"incarnation": "another"}, "The manifest of backup .* does not say what was reported."),
        (None, "The manifest of backup .* is not in the store."),
    ],
)
def test_what_a_host_says_of_a_backup_is_looked_for(site: Site, change: dict[str, Any] | None, reason: str) -> None:
    """COMPLETED means that the store has it, under its own name; else it is FAILED, and its host must clear it away."""
    instance = site.instance()["id"]
    backup = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})["backup"]["id"]
    task = site.claim()["task"]
    result = a_result_of(task) if change is None else site.stored_backup(task) | change
    result["object_name"] = result["object_name"].format(id=backup)
    report = {"session": site.region.session, "attempt": 1, "ok": True, "backup": result}
    for _ in range(2):
        check_fault(site.agent(f"tasks/{task['id']}/report", report), 409)
    found = site.ok("GET", f"/backups/{backup}")["backup"]
    assert found["status"] == "FAILED"
    assert re.fullmatch(reason, found["reason"])
    assert site.ok("GET", f"/instances/{instance}")["instance"]["status"] == "ACTIVE"
    assert site.region.enqueued()[-1][0] == "sweep_backup"


def test_a_backup_whose_store_is_silent_is_not_completed_yet(site: Site) -> None:
    """Where the store cannot be asked the host is told 503, and reports again."""
    instance = site.instance()["id"]
    backup = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})["backup"]["id"]
    task = site.claim()["task"]
    report = {"session": site.region.session, "attempt": 1, "ok": True, "backup": site.stored_backup(task)}
    context = site.app.state.context
    site.app.state.context = replace(context, stored_backups=StoredBackups(UnavailableStores(lambda: None)))
    check_fault(site.agent(f"tasks/{task['id']}/report", report), 503)
    site.app.state.context = context
    assert site.ok("GET", f"/backups/{backup}")["backup"]["status"] == "BUILDING"
    assert site.agent(f"tasks/{task['id']}/report", report).status_code == 200
    assert site.ok("GET", f"/backups/{backup}")["backup"]["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"id": str(uuid.uuid4())}, "The manifest of backup .* does not say what was reported."),
        ({"account": "9999"}, "The manifest of backup .* does not say what was reported."),
        ({"parent_id": str(uuid.uuid4())}, "The backup was not taken from the parent that was asked for."),
        (
            {"index": IndexFacts(name=f"{uuid.uuid4()}.index", size_bytes=9, sha256="0" * 64)},
            "The index of backup .* another name or length.",
        ),
        ({"created": "yesterday"}, "The manifest of backup .* cannot be understood."),
        (None, "The manifest of backup .* cannot be understood."),
    ],
)
def test_a_manifest_of_something_else(site: Site, facts: dict[str, Any] | None, reason: str) -> None:
    """A manifest with the reported hash completes a backup only if it is one, and describes this backup."""
    instance = site.instance()["id"]
    backup = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})["backup"]["id"]
    task = site.claim()["task"]
    document = a_manifest_of(task).model_copy(update=facts or {}).dump() if facts else b"\x00 not json"
    result = site.stored_backup(task) | {"manifest_sha256": hashlib.sha256(document).hexdigest()}
    if facts and "parent_id" in facts:
        result |= facts
    site.stores.of("1234").replace(f"{backup}.json", document)
    report = {"session": site.region.session, "attempt": 1, "ok": True, "backup": result}
    check_fault(site.agent(f"tasks/{task['id']}/report", report), 409)
    found = site.ok("GET", f"/backups/{backup}")["backup"]
    assert found["status"] == "FAILED"
    assert re.fullmatch(reason, found["reason"])


def test_a_store_that_hangs_holds_up_no_host(tmp_path: Path) -> None:
    """While reports wait for a store that hangs, each gets 503 in time, and heartbeats are answered at once."""
    go_on = threading.Event()
    with opened_site(tmp_path, store_timeout_s=0.5) as site, ThreadPoolExecutor(24) as pool:
        instance = site.instance()["id"]
        backup = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance}})["backup"]["id"]
        task = site.claim()["task"]
        report = {"session": site.region.session, "attempt": 1, "ok": True, "backup": site.stored_backup(task)}
        context = site.app.state.context
        hanging = StoredBackups(UnavailableStores(partial(go_on.wait, 60)))
        site.app.state.context = replace(context, stored_backups=hanging)
        try:
            reports = [pool.submit(site.agent, f"tasks/{task['id']}/report", report) for _ in range(24)]
            begun_s = time.monotonic()
            beat = site.agent("heartbeat", {"session": site.region.session, "instances": []})
            assert (beat.status_code, time.monotonic() - begun_s < 5) == (200, True)
            for each in reports:
                check_fault(each.result(timeout=20), 503)
        finally:
            go_on.set()
        site.app.state.context = context
        poll(lambda: site.agent(f"tasks/{task['id']}/report", report).status_code == 200)
        assert site.ok("GET", f"/backups/{backup}")["backup"]["status"] == "COMPLETED"


def test_many_instances_take_no_more_statements_than_few(site: Site) -> None:
    """What a host tells of 2,000 instances is written in a few statements: others who write do not wait for it."""
    instance = site.instance()["id"]
    asked: list[str] = []
    event.listen(site.region.deployment.catalog.engine, "before_cursor_execute", lambda *facts: asked.append(facts[2]))
    states = [{"id": instance, "running": True, "used_bytes": 5}]
    states += [{"id": str(uuid.uuid4()), "running": True} for _ in range(1_999)]
    beat = {"session": site.region.session, "instances": states}
    assert site.agent("heartbeat", beat).json() == {"instances": {instance: "running"}}
    assert len(asked) <= 11


def test_answer_nobody_waits_for(site: Site) -> None:
    """An answer that comes too late is taken, and forgotten."""
    assert site.agent("questions/unknown/answer", {"session": site.region.session, "ok": True}).json() == {}
