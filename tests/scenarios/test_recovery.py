"""What is lost comes back from the store alone: the backups' records, and the whole state directory."""

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.scenarios.served import ACCOUNT, Served, eventually, query, served, snaphold

pytestmark = pytest.mark.engine


def run(*words: str | Path) -> list[Any]:
    """What an administrative command prints, as JSON; it must succeed."""
    ended = subprocess.run(snaphold(*words), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    decoder, text, found = json.JSONDecoder(), ended.stdout, []
    while text.strip():
        one, end = decoder.raw_decode(text.lstrip())
        found.append(one)
        text = text.lstrip()[end:]
    return found


def answers(service: Served, *paths: str) -> dict[str, bytes]:
    """The bytes of each answer."""
    return {path: service.call("GET", path).content for path in paths}


def log_in(service: Served, secret: dict[str, dict[str, str]]) -> httpx.Response:
    """A login of the account's user."""
    auth = {**secret, "tenantName": ACCOUNT}
    url = f"http://127.0.0.1:{service.ports['DFW']}/v2.0/tokens"
    return httpx.post(url, json={"auth": auth}, trust_env=False)


def with_rows(service: Served) -> tuple[Any, Any]:
    """An instance with rows in it, and what CHECKSUM TABLE says of them."""
    instance = service.instance()
    query(instance, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
    query(instance, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * (n % 150)) for n in range(2000)])
    return instance, query(instance, "CHECKSUM TABLE t")


def increment(service: Served, instance: Any, parent: Any) -> Any:
    """An incremental backup, COMPLETED."""
    wanted = {"name": "i", "instance": instance["id"], "parent_id": parent["id"], "description": "on top"}
    made = service.ok("POST", "/backups", {"backup": wanted})["backup"]
    return service.reaches(f"/backups/{made['id']}", "COMPLETED")


def rows_of(state_dir: Path) -> list[tuple[object, ...]]:
    """The records of backups that are there, every column."""
    with closing(sqlite3.connect(state_dir / "regions" / "DFW" / "catalog.db")) as catalog:
        return catalog.execute("SELECT * FROM backups WHERE deleted_us IS NULL ORDER BY id").fetchall()


def test_the_records_of_backups_are_lost(state_dir: Path, instance_network: str) -> None:
    """Rebuilt while the service runs, every answer is the same to the last byte, and a chain can be restored."""
    with served(state_dir, instance_network) as service:
        source, _ = with_rows(service)
        first = service.backup(source)
        query(source, "UPDATE t SET v = 'later' WHERE id < 300")
        expected = query(source, "CHECKSUM TABLE t")
        second = increment(service, source, first)
        gone = increment(service, source, second)
        service.ok("DELETE", f"/backups/{gone['id']}")
        eventually(lambda: service.call("GET", f"/backups/{gone['id']}").status_code == 404, "the delete")
        paths = [
            "/backups",
            "/backups?limit=1",
            f"/backups?marker={second['id']}",
            f"/instances/{source['id']}/backups",
            f"/backups/{first['id']}",
            f"/backups/{second['id']}",
        ]
        before, rows = answers(service, *paths), rows_of(state_dir)
        with closing(sqlite3.connect(state_dir / "regions" / "DFW" / "catalog.db")) as catalog, catalog:
            catalog.execute("DELETE FROM backups")
        assert service.ok("GET", "/backups") == {"backups": []}

        (rebuilt,) = run("catalog", "rebuild", "--state-dir", state_dir)
        assert {made["id"] for made in rebuilt["made"]} == {first["id"], second["id"]}
        assert rebuilt["not_made"] == []
        assert answers(service, *paths) == before
        assert rows_of(state_dir) == rows
        (again,) = run("catalog", "rebuild", "--state-dir", state_dir)
        assert (again["made"], again["recorded_already"]) == ([], 2)
        assert run("catalog", "rebuild", "--state-dir", state_dir, "--done")[0]["sweep"] == "goes on"
        restored = service.instance(restorePoint={"backupRef": second["id"]})
        assert query(restored, "CHECKSUM TABLE t") == expected


def test_the_state_directory_is_lost(state_dir: Path, instance_network: str) -> None:
    """With its store alone the service is back: accounts and their secrets, instances' records, backups, restores."""
    store = state_dir / "store"
    home = state_dir / "state"
    home.mkdir()
    flags = (f"--store-dir={store}", "--lease-s=6", "--renew-s=2")
    with served(home, instance_network, *flags) as service:
        source, expected = with_rows(service)
        eventually(lambda: list(store.rglob("*.json.gz")), "the worker to save the state by itself")
        backup = service.backup(source)
        key = run("account", "add", "--state-dir", home, ACCOUNT, "--user", "keyed", "--password", "pw2")[0]["api_key"]
        before = answers(service, "/backups", f"/backups/{backup['id']}", f"/instances/{source['id']}/backups")
        (saved,) = run("state", "backup", "--state-dir", home, "--store-dir", store)
        assert list(store.rglob(Path(saved["saved"]).name))
        subprocess.run(snaphold("stop", "--state-dir", home), check=True, stdout=subprocess.DEVNULL, timeout=60)
        shutil.rmtree(home)
        home.mkdir()

        (restored,) = run("state", "restore", "--state-dir", home, "--store-dir", store, "--region", "DFW")
        assert [made["id"] for made in restored["made"]] == [backup["id"]]
        service.start()
        secrets: list[dict[str, dict[str, str]]] = [
            {"passwordCredentials": {"username": "demo", "password": "secret"}},
            {"passwordCredentials": {"username": "keyed", "password": "pw2"}},
            {"RAX-KSKEY:apiKeyCredentials": {"username": "keyed", "apiKey": key}},
        ]
        logins = [log_in(service, secret) for secret in secrets]
        assert [login.status_code for login in logins] == [200, 200, 200]
        service.token = logins[0].json()["access"]["token"]["id"]
        assert answers(service, *before) == before
        lost = service.ok("GET", f"/instances/{source['id']}")["instance"]
        assert lost["status"] == "ERROR"
        assert "can be restored" in lost["reason"]
        restarted = service.instance(restorePoint={"backupRef": backup["id"]})
        assert query(restarted, "CHECKSUM TABLE t") == expected
        service.ok("DELETE", f"/instances/{source['id']}")
        eventually(lambda: service.call("GET", f"/instances/{source['id']}").status_code == 404, "the lost one to go")
        service.backup(restarted)
