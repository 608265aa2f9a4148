"""Secrets that must be nowhere: searched for, after a whole life of an instance, in all that the service wrote."""

import base64
import gzip
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.scenarios.served import ACCOUNT, Served, eventually, query, served, snaphold

pytestmark = pytest.mark.engine

ACCOUNT_PASSWORD: Final = "CanaryOfTheAccount7031"
USER_PASSWORD: Final = "CanaryOfAnInstancesUser5518"
CHANGED_PASSWORD: Final = "CanaryOfAChangedUser9407"
LATER_PASSWORD: Final = "CanaryOfALaterUser2264"
FILES_OF_INTERNAL_ACCOUNTS: Final = {"admin.cnf", "backup.cnf", "super.cnf", "init.sql"}


def forms(secret: str) -> set[bytes]:
    """A secret as it may stand in a file: in clear, in hexadecimal, in two-byte characters, in base64."""
    raw = secret.encode()
    # In base64 it looks different at each of three positions; the characters that depend on its neighbours are cut off.
    shifted = [base64.b64encode(b"\0" * pad + raw)[(8 * pad + 5) // 6 : -4] for pad in range(3)]
    return {raw, raw.hex().encode(), raw.hex().upper().encode(), secret.encode("utf-16-le"), *shifted}


def contents(path: Path) -> bytes:
    """What is in a file; what is compressed is decompressed as well."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        with suppress(gzip.BadGzipFile, EOFError):
            data += gzip.decompress(data)
    return data


def places_of(secrets: Mapping[str, str], directory: Path) -> set[tuple[str, str]]:
    """(which secret, name of the file) wherever one of them stands."""
    wanted = [(which, form) for which, secret in secrets.items() for form in forms(secret)]
    found = set()
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = contents(path)
            found |= {(which, path.name) for which, form in wanted if form in data}
    return found


@contextmanager
def command_lines() -> Iterator[set[bytes]]:
    """Every command line that any process of this machine had meanwhile."""
    seen: set[bytes] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            for entry in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    seen.add((entry / "cmdline").read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def live(service: Served) -> dict[str, str]:
    """Everything that handles a secret happens, well and badly; the secrets."""
    words = snaphold("account", "add", "--state-dir", service.state_dir, "77", "--user", "canary")
    added = subprocess.run(words, input=f"{ACCOUNT_PASSWORD}\n", text=True, capture_output=True, check=True)
    api_key = json.loads(added.stdout)["api_key"]
    url = f"http://127.0.0.1:{service.ports['DFW']}"
    with httpx.Client(base_url=url, trust_env=False) as http:
        by_password = {"passwordCredentials": {"username": "canary", "password": ACCOUNT_PASSWORD}}
        http.post("/v2.0/tokens", json={"auth": by_password}).raise_for_status()
        by_key = {"RAX-KSKEY:apiKeyCredentials": {"username": "canary", "apiKey": api_key}}
        answer = http.post("/v2.0/tokens", json={"auth": by_key}).raise_for_status()
        token = answer.json()["access"]["token"]["id"]
        wrong = {"passwordCredentials": {"username": "nobody", "password": ACCOUNT_PASSWORD}}
        assert http.post("/v2.0/tokens", json={"auth": wrong}).status_code == 401
        assert http.get(f"/v1.0/{ACCOUNT}/instances", headers={"X-Auth-Token": token}).status_code == 403

    user = {"name": "canary", "password": USER_PASSWORD, "databases": [{"name": "shop"}]}
    app = {"name": "app", "password": "pw1", "databases": [{"name": "shop"}]}
    source = service.instance(users=[user, app])
    later = [{"name": name, "password": LATER_PASSWORD, "databases": [{"name": "shop"}]} for name in ("later", "app")]
    service.ok("POST", f"/instances/{source['id']}/users", {"users": later[:1]})
    assert service.call("POST", f"/instances/{source['id']}/users", {"users": later}).status_code == 400
    refused = service.call("POST", "/instances", {"instance": {"users": [user], "flavorRef": 999}})
    assert refused.status_code == 400
    query(source, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
    backup = service.backup(source)
    restored = service.instance(restorePoint={"backupRef": backup["id"]}, users=[user | {"name": "extra"}])
    service.ok("POST", f"/instances/{restored['id']}/action", {"restart": {}})
    service.reaches(f"/instances/{restored['id']}", "ACTIVE")

    where = f"/instances/{restored['id']}"
    service.ok("PUT", f"{where}/users/later", {"user": {"password": CHANGED_PASSWORD}})
    service.ok("PUT", f"{where}/users", {"users": [{"name": "extra", "password": CHANGED_PASSWORD}]})
    root = service.ok("POST", f"{where}/root")["user"]["password"]

    secrets = {
        "root": root,
        "changed user": CHANGED_PASSWORD,
        "account": ACCOUNT_PASSWORD,
        "key": api_key,
        "token": token,
        "user": USER_PASSWORD,
    }
    secrets |= {"later user": LATER_PASSWORD}
    for path in (service.state_dir / "instances").glob("*/*.cnf"):
        (password,) = re.findall(r'password="(\w+)"', path.read_text())
        secrets[f"internal {path.parent.name} {path.name}"] = password
    secrets["agent"] = (service.state_dir / "regions" / "DFW" / "agent.token").read_text().strip()
    return secrets


def test_a_canary_is_found() -> None:
    """The search sees what it searches for, in every form, or its silence would mean nothing."""
    for pad in range(3):
        assert any(form in base64.b64encode(b"-" * pad + b"CanaryXY" + b"--") for form in forms("CanaryXY"))
    assert any(form in b"CanaryXY".hex().encode() for form in forms("CanaryXY"))


def test_no_secret_is_written_down(state_dir: Path, instance_network: str) -> None:
    """No password, key or token stands in a log, on a command line, in a record, a job, a manifest or a backup.

    The internal accounts' own stand in their files, and the agent's token in its file, which nobody else can read; the
    backup tool's, which runs as the instance's own system user, is read by that user's group too.
    """
    with command_lines() as seen, served(state_dir, instance_network, "--log-level=debug") as service:
        secrets = live(service)
        found = places_of(secrets, state_dir)
        service.end()
    found |= places_of(secrets, state_dir)

    assert {place for place in found if place[1] not in FILES_OF_INTERNAL_ACCOUNTS} == {("agent", "agent.token")}
    assert {which.split()[0] for which, name in found if name in FILES_OF_INTERNAL_ACCOUNTS} == {"internal"}
    for name in ("agent.token", *FILES_OF_INTERNAL_ACCOUNTS):
        for path in state_dir.rglob(name):
            facts = path.stat()
            instances_own = name == "backup.cnf" and facts.st_gid == (path.parent / "data").stat().st_uid
            assert facts.st_mode & (0o037 if instances_own else 0o077) == 0, path
    lines = b"\n".join(seen)
    assert b"mariabackup" in lines or b"mariadb-backup" in lines
    assert b"--prepare" in lines
    assert [which for which, secret in secrets.items() for form in forms(secret) if form in lines] == []


def test_secrets_in_a_refused_body_are_not_logged(state_dir: Path, instance_network: str) -> None:
    """A request that makes the service stumble is told without what it carried."""
    with served(state_dir, instance_network, "--log-level=debug") as service:
        for body in (
            {"instance": {"users": [{"name": "x", "password": [USER_PASSWORD]}]}},
            {"instance": {"flavorRef": 1, "volume": {"size": 1}, "users": [{"name": USER_PASSWORD * 9}]}},
            {"users": USER_PASSWORD},
        ):
            assert service.call("POST", "/instances", body).status_code == 400
        eventually(lambda: service.ok("GET", "/instances") is not None, "an answer")
        assert places_of({"user": USER_PASSWORD}, state_dir) == set()
