from pathlib import Path

import pytest

from tests.api.site import AnsweringHost, FailingGate, Site, opened_site

CANARY = "c4n4ry-s3cr3t-pw"


def test_no_password_stays_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A password that was sent, in whatever request, is in no answer, no log, and no file."""
    with opened_site(tmp_path, gate=FailingGate(RuntimeError("broken"))) as site:
        _send_it_everywhere(site)
        kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    captured = capfd.readouterr()
    assert "instance.requested" in captured.out + captured.err
    assert "RuntimeError: broken" in captured.out + captured.err
    assert CANARY not in captured.out + captured.err
    assert CANARY.encode() not in kept
    assert site.region.token.encode() not in kept
    assert site.tokens["demo"].encode() not in kept


def _send_it_everywhere(site: Site) -> None:
    site.identity.add_account("1234", "own", CANARY, [])
    user = {"name": "u", "password": CANARY}
    instance = site.instance(users=[user])["id"]
    path = f"/v1.0/1234/instances/{instance}"
    login = {"auth": {"passwordCredentials": {"username": "own", "password": CANARY}}}
    wrong = {"auth": {"passwordCredentials": {"username": "own", "password": CANARY + "x"}}}
    identity = {"methods": ["password"], "password": {"user": {"name": "own", "password": CANARY}}}
    headers = {"X-Auth-Token": site.token("demo")}
    fails = {"flavorRef": 1, "restorePoint": {"backupRef": "x"}}  # asks the store, which is broken
    with AnsweringHost(site):
        for method, where, body in (
            ("POST", "/v2.0/tokens", login),
            ("POST", "/v2.0/tokens", wrong),
            (
                "POST",
                "/v2.0/tokens",
                {"auth": {"passwordCredentials": {"username": [CANARY], "password": {CANARY: 1}}}},
            ),
            ("POST", "/v3/auth/tokens", {"auth": {"identity": identity}}),
            ("POST", "/v1.0/1234/instances", {"instance": {"flavorRef": 1, "users": [{**user, "name": "root"}]}}),
            ("POST", "/v1.0/1234/instances", {"instance": {**fails, "users": [user]}}),
            ("POST", f"{path}/users", {"users": [user]}),
            ("POST", f"{path}/users", {"users": [user, user]}),
            ("POST", f"{path}/users", {"users": [{**user, "password": [CANARY]}]}),
            ("PUT", f"{path}/users", {"users": [user]}),
            ("PUT", f"{path}/users/u", {"user": {"password": CANARY}}),
        ):
            answer = site.send(method, where, json=body, headers=headers)
            assert CANARY not in answer.text
            assert CANARY not in str(answer.headers)
        raw = b'{"users": [{"name": "u", "password": "' + CANARY.encode() + b'",}]}'
        assert CANARY not in site.send("POST", f"{path}/users", content=raw, headers=headers).text
        assert CANARY not in site.send("GET", f"{path}/users", headers=headers).text
