import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from snaphold.identity import embedded
from snaphold.identity.embedded import open_embedded
from tests.api.site import Site, check_fault, poll

PASSWORD = {"username": "keyless", "password": "its-secret"}
WRONG = "Unable to authenticate user with credentials provided."


@pytest.fixture(autouse=True)
def _keyless(site: Site) -> None:
    """A user with a password."""
    site.identity.add_account("1234", "keyless", "its-secret", [])


def _v3(user: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, **more}}


@pytest.mark.parametrize("path", ["/", "/v1.0", "/v1.0/", "/v2.0", "/v2.0/", "/v3", "/v3/"])
def test_versions_need_no_token(site: Site, path: str) -> None:
    """Which versions there are is told to everybody."""
    assert site.send("GET", path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1.0", "/v1.0/"])
def test_api_versions(site: Site, path: str) -> None:
    """The version document, as the contract's section 4 has it."""
    (version,) = site.send("GET", path).json()["versions"]
    links = [{"rel": "self", "href": "http://127.0.0.1:8779/v1.0/"}]
    assert (version["id"], version["status"], version["links"]) == ("v1.0", "CURRENT", links)


@pytest.mark.parametrize("scope", [{}, {"tenantName": "1234"}, {"tenantId": "1234"}])
def test_v2_password(site: Site, scope: dict[str, str]) -> None:
    """A password gives a token that works, with or without the account's name."""
    access = site.send("POST", "/v2.0/tokens", json={"auth": {"passwordCredentials": PASSWORD, **scope}}).json()[
        "access"
    ]
    assert access["token"]["tenant"]["id"] == "1234"
    assert access["user"]["RAX-AUTH:defaultRegion"] == "DFW"
    answer = site.send("GET", "/v1.0/1234/backups", headers={"X-Auth-Token": access["token"]["id"]})
    assert answer.status_code == 200


def test_v2_api_key(site: Site) -> None:
    """An API key gives a token, in the form of Rackspace's clients."""
    added = site.identity.add_account("77", "keyed", None, [])
    credentials = {"username": "keyed", "apiKey": added["api_key"]}
    body = {"auth": {"RAX-KSKEY:apiKeyCredentials": credentials}}
    access = site.send("POST", "/v2.0/tokens", json=body).json()["access"]
    assert access["token"]["tenant"]["id"] == "77"
    assert access["token"]["RAX-AUTH:authenticatedBy"] == ["APIKEY"]


def test_v2_catalog(site: Site) -> None:
    """Both names of the database service and the object store, one endpoint in each region."""
    catalog = site.send("POST", "/v2.0/tokens", json={"auth": {"passwordCredentials": PASSWORD}}).json()["access"][
        "serviceCatalog"
    ]
    found = {
        entry["type"]: {endpoint["region"]: endpoint["publicURL"] for endpoint in entry["endpoints"]}
        for entry in catalog
    }
    for endpoint in (endpoint for entry in catalog for endpoint in entry["endpoints"]):
        assert endpoint["internalURL"] == endpoint["adminURL"] == endpoint["publicURL"]
    databases = {"DFW": "http://127.0.0.1:8779/v1.0/1234", "IAD": "http://127.0.0.1:8780/v1.0/1234"}
    objects = {"DFW": "http://127.0.0.1:8779/v1/MossoCloudFS_1234", "IAD": "http://127.0.0.1:8780/v1/MossoCloudFS_1234"}
    assert found == {"database": databases, "rax:database": databases, "object-store": objects}
    assert [entry["name"] for entry in catalog if entry["type"] == "rax:database"] == ["cloudDatabases"]


@pytest.mark.parametrize(
    "scope", [{}, {"scope": {"project": {"name": "1234", "domain": {"id": "default"}}}}, {"scope": "unscoped"}]
)
def test_v3_password(site: Site, scope: dict[str, Any]) -> None:
    """A password gives a token in a header, and the catalog in the body."""
    user = {"name": "keyless", "password": "its-secret", "domain": {"id": "default"}}
    answer = site.send("POST", "/v3/auth/tokens", json=_v3(user, **scope))
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert token["project"]["id"] == "1234"
    endpoints = {
        entry["type"]: {(endpoint["region"], endpoint["interface"]) for endpoint in entry["endpoints"]}
        for entry in token["catalog"]
    }
    every = {(region, interface) for region in ("DFW", "IAD") for interface in ("public", "internal", "admin")}
    assert endpoints == {"database": every, "rax:database": every, "object-store": every}
    assert len({endpoint["id"] for entry in token["catalog"] for endpoint in entry["endpoints"]}) == 18
    headers = {"X-Auth-Token": answer.headers["X-Subject-Token"]}
    assert site.send("GET", "/v1.0/1234/backups", headers=headers).status_code == 200


def test_token_for_token(site: Site) -> None:
    """A good token logs in as itself, in both forms; it lives no longer for that."""
    token = site.token("demo")
    v2 = site.send("POST", "/v2.0/tokens", json={"auth": {"token": {"id": token}, "tenantId": "1234"}})
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}}}
    v3 = site.send("POST", "/v3/auth/tokens", json=body)
    assert v2.json()["access"]["token"]["id"] == v3.headers["X-Subject-Token"] == token
    check_fault(site.send("POST", "/v2.0/tokens", json={"auth": {"token": {"id": token}, "tenantId": "9999"}}), 401)


@pytest.mark.parametrize(
    "body",
    [
        {"auth": {"passwordCredentials": {"username": "keyless", "password": "wrong"}}},
        {"auth": {"passwordCredentials": {"username": "nobody", "password": "its-secret"}}},
        {"auth": {"passwordCredentials": PASSWORD, "tenantName": "9999"}},
        {"auth": {"passwordCredentials": PASSWORD, "tenantName": "1234", "tenantId": "9999"}},
        {"auth": {"RAX-KSKEY:apiKeyCredentials": {"username": "keyless", "apiKey": "its-secret"}}},
    ],
)
def test_v2_refusals(site: Site, body: dict[str, Any]) -> None:
    """Whatever was wrong: one and the same 401."""
    check_fault(site.send("POST", "/v2.0/tokens", json=body), 401, WRONG)


@pytest.mark.parametrize(
    "body",
    [
        _v3({"name": "keyless", "password": "wrong"}),
        _v3({"name": "keyless", "password": "its-secret"}, scope={"project": {"id": "9999"}}),
    ],
)
def test_v3_refusals(site: Site, body: dict[str, Any]) -> None:
    """The same in the newer form."""
    check_fault(site.send("POST", "/v3/auth/tokens", json=body), 401, WRONG)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2.0/tokens", {}),
        ("/v2.0/tokens", {"auth": {}}),
        ("/v2.0/tokens", {"auth": {"passwordCredentials": {"username": "demo"}}}),
        ("/v2.0/tokens", {"auth": {"passwordCredentials": {"username": "keyless", "password": 5}}}),
        ("/v3/auth/tokens", {"auth": {"identity": {"methods": []}}}),
        ("/v3/auth/tokens", {"auth": {"identity": {"methods": ["totp"]}}}),
        ("/v3/auth/tokens", _v3({"password": "x"})),
    ],
)
def test_no_login_at_all(site: Site, path: str, body: dict[str, Any]) -> None:
    """What is no login is a `badRequest`."""
    check_fault(site.send("POST", path, json=body), 400)


def test_show_token(site: Site) -> None:
    """A token can be looked at by its own account only."""
    demo, other = site.token("demo"), site.token("other")

    def show(token: str | None, subject: str | None) -> Any:
        given = {"X-Auth-Token": token, "X-Subject-Token": subject}
        headers = {name: value for name, value in given.items() if value is not None}
        return site.send("GET", "/v3/auth/tokens", headers=headers)

    assert show(demo, demo).json()["token"]["user"]["id"] == "demo"
    check_fault(show(demo, None), 400)
    check_fault(show(demo, other), 404)
    check_fault(show(demo, "nope"), 404)
    check_fault(show(None, demo), 401)
    check_fault(show("nope", demo), 401)


def test_log_out(site: Site) -> None:
    """A token that its user ends, in either form, is refused at once, and cannot be ended twice; others stay good."""
    body = {"auth": {"passwordCredentials": PASSWORD}}
    first, second, third = (site.send("POST", "/v2.0/tokens", json=body).json()["access"]["token"]["id"] for _ in "123")

    def lists(token: str) -> int:
        return site.send("GET", "/v1.0/1234/backups", headers={"X-Auth-Token": token}).status_code

    assert [lists(token) for token in (first, second, third)] == [200, 200, 200]
    headers = {"X-Auth-Token": third, "X-Subject-Token": first}
    ended = site.send("DELETE", "/v3/auth/tokens", headers=headers)
    assert (ended.status_code, ended.content) == (204, b"")
    assert [lists(token) for token in (first, second, third)] == [401, 200, 200]
    check_fault(site.send("DELETE", "/v3/auth/tokens", headers=headers), 404)
    ended = site.send("DELETE", f"/v2.0/tokens/{second}", headers={"X-Auth-Token": second})
    assert (ended.status_code, ended.content) == (204, b"")
    check_fault(site.send("DELETE", f"/v2.0/tokens/{second}", headers={"X-Auth-Token": second}), 401)
    assert [lists(token) for token in (first, second, third)] == [401, 401, 200]


def test_log_out_of_others(site: Site) -> None:
    """Without a good token of the same account nobody ends a token, or learns that it is one."""
    mine, foreign = site.token("demo"), site.token("other")
    for auth, subject, code in ((None, mine, 401), ("nope", mine, 401), (mine, foreign, 404), (mine, "nope", 404)):
        headers = {} if auth is None else {"X-Auth-Token": auth}
        check_fault(site.send("DELETE", f"/v2.0/tokens/{subject}", headers=headers), code)
        headers["X-Subject-Token"] = subject
        check_fault(site.send("DELETE", "/v3/auth/tokens", headers=headers), code)
    check_fault(site.send("DELETE", "/v3/auth/tokens", headers={"X-Auth-Token": mine}), 400)
    for token, account in ((mine, "1234"), (foreign, "9999")):
        assert site.send("GET", f"/v1.0/{account}/backups", headers={"X-Auth-Token": token}).status_code == 200


@pytest.mark.parametrize("whole_account", [True, False])
def test_what_is_revoked_elsewhere(site: Site, tmp_path: Path, *, whole_account: bool) -> None:
    """A token that was good a moment ago is refused in the next request, wherever its user was disabled.

    Enabling lets the user log in again, but brings no old token back.
    """
    body = {"auth": {"passwordCredentials": PASSWORD}}

    def lists(token: str) -> int:
        return site.send("GET", "/v1.0/1234/backups", headers={"X-Auth-Token": token}).status_code

    token = site.send("POST", "/v2.0/tokens", json=body).json()["access"]["token"]["id"]
    assert lists(token) == 200
    with closing(open_embedded(tmp_path, 3600)) as elsewhere:
        elsewhere.disable("1234", None if whole_account else "keyless")
        assert lists(token) == 401
        check_fault(site.send("POST", "/v2.0/tokens", json=body), 401, WRONG)
        elsewhere.enable("1234", None if whole_account else "keyless")
    assert lists(token) == 401
    assert lists(site.send("POST", "/v2.0/tokens", json=body).json()["access"]["token"]["id"]) == 200


@pytest.mark.parametrize("token", [None, "", "nope", "\xfc"])
def test_no_good_token(site: Site, token: str | None) -> None:
    """None, an empty and an unknown token are a 401."""
    headers = {} if token is None else {"X-Auth-Token": token.encode("latin-1")}
    check_fault(site.send("GET", "/v1.0/1234/backups", headers=headers), 401)


def test_logins_hold_up_nobody(site: Site) -> None:
    """More logins than there are threads wait for their passwords to be checked: other requests are answered."""
    wrong = {"auth": {"passwordCredentials": {"username": "keyless", "password": "wrong"}}}
    headers = {"X-Auth-Token": site.token("demo")}
    with ExitStack() as places, ThreadPoolExecutor(45) as pool:
        for _ in range(4):
            places.enter_context(embedded._SCRYPT_PLACES)
        asked = [pool.submit(site.client.post, "/v2.0/tokens", json=wrong) for _ in range(45)]
        poll(lambda: "logins_7" in {each.name for each in threading.enumerate()})
        assert site.send("GET", "/v1.0/1234/backups", headers=headers).status_code == 200
        assert not any(each.done() for each in asked)
        places.close()
        assert {each.result().status_code for each in asked} <= {401, 503}


@pytest.mark.parametrize("path", ["/v2.0/tokens", "/v3/auth/tokens"])
def test_a_login_is_small(site: Site, path: str) -> None:
    """A body of a orphaned object is read up to 64 KiB only."""
    check_fault(site.send("POST", path, json={"auth": "x" * 65_536}), 413, "The body is larger than 65536 bytes.")
