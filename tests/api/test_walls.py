from typing import Any

import pytest

from tests.api.site import Site, check_fault, routes_of

BODIES: dict[tuple[str, str], Any] = {
    ("POST", "backups"): {"backup": {"name": "n", "instance": "ID"}},
    ("POST", "instances"): {"instance": {"name": "n", "flavorRef": 1, "restorePoint": {"backupRef": "BACKUP"}}},
    ("PATCH", "instance"): {"instance": {"name": "stolen"}},
    ("POST", "action"): {"restart": {}},
    ("POST", "databases"): {"databases": [{"name": "d"}]},
    ("PUT", "databases"): {"databases": [{"name": "d"}]},
    ("POST", "users"): {"users": [{"name": "u", "password": "p"}]},
    ("PUT", "users"): {"users": [{"name": "u", "password": "p"}]},
    ("PUT", "user"): {"user": {"name": "v"}},
    ("POST", "schedules"): {
        "schedule": {"action": "backup", "instance_id": "ID", "day_of_week": 0, "hour": 1, "minute": 2}
    },
}


def _body(method: str, path: str, instance: str, backup: str) -> Any:
    """A valid body of this route that names things of the account."""
    last = path.rpartition("/")[2]
    kind = "instance" if last == instance else "user" if "/users/" in path and last != "databases" else last
    if last == "action" and "/backups/" in path:
        return {"verify": {}}
    body = BODIES.get((method, kind))
    return None if body is None else _filled(body, instance, backup)


def _filled(body: Any, instance: str, backup: str) -> Any:
    if isinstance(body, dict):
        return {key: _filled(value, instance, backup) for key, value in body.items()}
    if isinstance(body, list):
        return [_filled(value, instance, backup) for value in body]
    return {"ID": instance, "BACKUP": backup}.get(body, body) if isinstance(body, str) else body


@pytest.mark.parametrize("token", [None, "nope"])
def test_every_route_wants_a_token(site: Site, token: str | None) -> None:
    """All routes below an account: no good token is a 401, whatever else is wrong with the request."""
    headers = {"Content-Type": "application/xml"} | ({} if token is None else {"X-Auth-Token": token})
    routes = [*routes_of(site.app, under="/v1.0/{", fill={"account": "1234"}), ("GET", "/v3/auth/tokens")]
    routes += routes_of(site.app, under="/v1/{", fill={"storage_account": "AUTH_1234"})
    assert len(routes) > 45
    for method, path in routes:
        check = site.send(method, path, content=b"{,}", headers=headers)
        assert check.status_code == 401, (method, path)


def test_no_token_enters_another_account(site: Site) -> None:
    """All routes below another account: one and the same 403, whatever else is wrong with the request."""
    routes = [*routes_of(site.app, under="/v1.0/{", fill={"account": "9999"})]
    routes += routes_of(site.app, under="/v1/{", fill={"storage_account": "AUTH_9999"})
    for method, path in routes:
        headers = {"X-Auth-Token": site.token("demo"), "Content-Type": "application/xml"}
        answer = site.send(method, path, content=b"{,}", headers=headers)
        assert answer.status_code == 403, (method, path)
        if method != "HEAD":
            check_fault(answer, 403, "User with tenant id 1234 cannot access this resource.")


def test_nothing_foreign_below_ones_own_account(site: Site) -> None:
    """All routes with foreign ids in them, body included: 404 like any unknown id, and nothing has changed."""
    instance = site.instance()
    backup = site.backup(instance["id"])
    ids = {"account": "9999", "instance_id": instance["id"], "backup_id": backup["id"], "name": "n", "database": "d"}
    walked = 0
    for method, path in routes_of(site.app, under="/v1.0/{", fill=ids):
        body = _body(method, path, instance["id"], backup["id"])
        names_it = (
            instance["id"] in path or backup["id"] in path or instance["id"] in str(body) or backup["id"] in str(body)
        )
        if names_it:
            walked += 1
            answer = site.send(method, path, json=body, headers={"X-Auth-Token": site.token("other")})
            assert answer.status_code == 404, (method, path, answer.text)
            assert "1234" not in answer.text.replace(instance["id"], "").replace(backup["id"], "")
    assert walked >= 25
    assert site.ok("GET", f"/instances/{instance['id']}")["instance"] == instance
    assert site.ok("GET", f"/backups/{backup['id']}")["backup"] == backup
    for path, key in (("/backups", "backups"), ("/instances", "instances")):
        assert site.ok("GET", path, user="other", account="9999") == {key: []}
    query = f"/backups?instance_id={instance['id']}"
    assert site.ok("GET", query, user="other", account="9999") == {"backups": []}
    for path in ("/backups", "/instances"):
        for marker in (backup["id"], instance["id"]):
            check_fault(site.call("GET", f"{path}?marker={marker}", user="other", account="9999"), 400)


@pytest.mark.parametrize(
    ("user", "allowed"),
    [
        ("demo", {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}),
        ("admin", {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}),
        ("creator", {"GET", "HEAD", "POST", "PUT", "PATCH"}),
        ("observer", {"GET", "HEAD"}),
    ],
)
def test_roles(site: Site, user: str, allowed: set[str]) -> None:
    """All routes: a role that does not give the right is a 403 before anything else is looked at."""
    routes = [*routes_of(site.app, under="/v1.0/{", fill={"account": "1234"})]
    routes += routes_of(site.app, under="/v1/{", fill={"storage_account": "AUTH_1234"})
    for method, path in routes:
        answer = site.send(method, path, content=b"{,}", headers={"X-Auth-Token": site.token(user)})
        assert (answer.status_code != 403) == (method in allowed), (method, path, answer.text)
