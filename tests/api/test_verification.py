"""Proofs over the API: asked for by an action, shown as an attribute."""

import pytest

from tests.api.site import Site, check_fault


def test_a_proof_is_asked_for_and_shown(site: Site) -> None:
    """202 and an empty body; ``verification`` is absent before, and says what was found afterwards, in lists too."""
    backup = site.backup(site.instance()["id"])
    assert "verification" not in backup
    answer = site.call("POST", f"/backups/{backup['id']}/action", {"verify": {"level": "restore"}})
    assert (answer.status_code, answer.content) == (202, b"")
    assert site.ok("GET", f"/backups/{backup['id']}")["backup"] == backup
    task = site.claim()["task"]
    assert (task["kind"], task["instance_id"]) == ("verify", None)
    when = {"at": "2026-01-02T03:04:05Z", "seconds": 1.5}
    proof = {"status": "failed", "level": "restore", **when, "reason": "differs", "mend_from": "IAD"}
    report = {"session": site.region.session, "attempt": 1, "ok": True, "proof": proof}
    assert site.agent(f"tasks/{task['id']}/report", report).status_code == 200
    shown = site.ok("GET", f"/backups/{backup['id']}")["backup"]
    assert shown == {**backup, "verification": proof}
    assert site.ok("GET", "/backups")["backups"] == [shown]


@pytest.mark.parametrize("body", [{}, None, {"level": "objects"}], ids=str)
def test_the_objects_are_what_is_proven_by_default(site: Site, body: object) -> None:
    """A verification of the objects is the worker's: no host hears of it. A second one at the same time is refused."""
    backup = site.backup(site.instance()["id"])
    path = f"/backups/{backup['id']}/action"
    assert site.call("POST", path, {"verify": body}).status_code == 202
    assert site.claim()["task"] is None
    assert [name for name, _ in site.region.enqueued()] == ["prove_objects"]
    check_fault(site.call("POST", path, {"verify": body}), 422, f"Backup {backup['id']} is being verified already.")
    check_fault(site.call("DELETE", f"/backups/{backup['id']}"), 422, f"Backup {backup['id']} is in use.")


def test_what_cannot_be_asked_for(site: Site) -> None:
    """A level that is none 400; an unknown backup 404; one that is not COMPLETED 422; no host that is there 503."""
    instance = site.instance()
    backup = site.backup(instance["id"])
    path = f"/backups/{backup['id']}/action"
    bad: list[object] = [{"level": "deep"}, {"level": None}, [], "objects"]
    for body in bad:
        check_fault(site.call("POST", path, {"verify": body}), 400)
    check_fault(site.call("POST", "/backups/none/action", {"verify": {}}), 404)
    check_fault(site.call("POST", path, {"verify": {}}, user="other", account="9999"), 404)
    check_fault(site.call("POST", path, {"verify": {}}, user="observer"), 403)
    made = site.ok("POST", "/backups", {"backup": {"name": "b", "instance": instance["id"]}})["backup"]
    check_fault(site.call("POST", f"/backups/{made['id']}/action", {"verify": {}}), 422)
    site.region.clock.advance(site.region.deployment.settings.lease_s + 1)
    check_fault(site.call("POST", path, {"verify": {"level": "restore"}}), 503)
