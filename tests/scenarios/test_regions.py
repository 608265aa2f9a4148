import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from snaphold.steps import Step
from tests.scenarios.served import ACCOUNT, Served, eventually, kill, query, served, snaphold
from tests.support.pauses import Pauses

pytestmark = pytest.mark.engine


def in_iad(service: Served, method: str, path: str, body: object = None) -> httpx.Response:
    """A request of the account to the second region."""
    url = f"http://127.0.0.1:{service.ports['IAD']}/v1.0/{ACCOUNT}{path}"
    headers = {"X-Auth-Token": service.token or ""}
    return httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False)


def copied(service: Served, count: int) -> list[Any]:
    """The backups of the second region, once there are so many."""

    def look() -> list[Any] | None:
        rows: list[Any] = in_iad(service, "GET", "/backups").json()["backups"]
        return rows if len(rows) == count else None

    return eventually(look, f"{count} backups in IAD") or []


def test_a_copy_is_restored_after_its_source_is_lost(state_dir: Path, instance_network: str) -> None:
    """Copies are asked for by an action and at create; restoring one needs nothing of the region that it came from.

    A peer's API answers nobody without its token.
    """
    with served(state_dir, instance_network, regions=("DFW", "IAD")) as service:
        source = service.instance()
        query(source, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
        query(source, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * (n % 150)) for n in range(5000)])
        expected = query(source, "CHECKSUM TABLE t")
        backup = service.backup(source)
        action = {"copy-backup": {"target_backup_region": "IAD", "name": "far", "description": "d"}}
        assert service.call("POST", f"/backups/{backup['id']}/action", action).status_code == 202
        (copy,) = copied(service, 1)
        assert (copy["name"], copy["description"], copy["status"]) == ("far", "d", "COMPLETED")
        assert copy["source"] == backup["source"]
        path = f"/backups/{backup['id']}"
        done = {"region": "IAD", "id": copy["id"], "status": "COMPLETED", "reason": None}
        eventually(lambda: service.ok("GET", path)["backup"]["copies"] == [done], "DFW to know of the copy")
        assert service.call("POST", f"{path}/action", action).status_code == 422

        wanted = {"backup": {"name": "b2", "instance": source["id"], "copy_to": ["IAD", "IAD"]}}
        service.ok("POST", "/backups", wanted)
        copied(service, 2)

        url = f"http://127.0.0.1:{service.ports['IAD']}/peer/v1/copies"
        assert httpx.post(url, json={}, headers={"Authorization": "Bearer x"}, trust_env=False).status_code == 401

        shutil.rmtree(state_dir / "regions" / "DFW" / "store")
        restore = {"name": "r", "flavorRef": 1, "restorePoint": {"backupRef": copy["id"]}}
        made = in_iad(service, "POST", "/instances", {"instance": restore}).json()["instance"]

        def active() -> Any:
            instance = in_iad(service, "GET", f"/instances/{made['id']}").json()["instance"]
            assert instance["status"] != "ERROR", instance
            return instance if instance["status"] == "ACTIVE" else None

        assert query(eventually(active, "the restored instance"), "CHECKSUM TABLE t") == expected


def test_separate_deployments(state_dir: Path, instance_network: str) -> None:
    """A chain is copied between two deployments that share nothing but a secret, and restored without the first.

    The peer dies in the middle of a copy: while it is away a request for another is 503; when it is back it has
    nothing to show until the copy has gone on to its end.
    """
    near, far = state_dir / "dfw", state_dir / "iad"
    pauses = Pauses(state_dir / "pauses")
    services = {
        name: Served(path, instance_network, f"--config={path}.toml", "--lease-s=6", "--renew-s=2", regions=(name,))
        for name, path in (("DFW", near), ("IAD", far))
    }
    secret = state_dir / "secret"
    secret.write_text("s" * 32)
    for path, other in ((near, "IAD"), (far, "DFW")):
        path.mkdir()
        url = f"http://127.0.0.1:{services[other].ports[other]}"
        Path(f"{path}.toml").write_text(f'[peers.{other}]\nurl = "{url}"\nsecret_file = "{secret}"\n')
    dfw, iad = services["DFW"], services["IAD"]
    dfw.environment = pauses.environment
    try:
        dfw.start()
        iad.start()
        source = dfw.instance()
        query(source, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
        full = dfw.backup(source)
        query(source, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * (n % 150)) for n in range(5000)])
        expected = query(source, "CHECKSUM TABLE t")
        wanted = {"backup": {"name": "i", "instance": source["id"], "parent_id": full["id"]}}
        increment = dfw.ok("POST", "/backups", wanted)["backup"]
        dfw.reaches(f"/backups/{increment['id']}", "COMPLETED")

        action = {"copy-backup": {"target_backup_region": "IAD"}}
        pauses.at(Step.COPY_SEGMENTS_WRITTEN)
        dfw.ok("POST", f"/backups/{full['id']}/action", action)
        pauses.reached()
        iad.end(signal.SIGKILL)
        eventually(lambda: not iad.processes("\0-m\0snaphold\0"), "the peer's processes to end")
        assert dfw.call("POST", f"/backups/{increment['id']}/action", action).status_code == 503
        pauses.over()
        eventually(lambda: dfw.ok("GET", f"/backups/{full['id']}")["backup"]["copies"][0]["reason"], "the copy to wait")
        iad.start()
        assert iad.ok("GET", "/backups") == {"backups": []}

        def copied_to_iad(count: int) -> list[Any] | None:
            rows: list[Any] = iad.ok("GET", "/backups")["backups"]
            return rows if len(rows) == count else None

        eventually(lambda: copied_to_iad(1), "the copy of the full backup")
        dfw.ok("POST", f"/backups/{increment['id']}/action", action)
        copy, parent = eventually(lambda: copied_to_iad(2), "the copy of the increment") or []
        assert (copy["parent_id"], parent["parent_id"]) == (parent["id"], None)
        assert iad.ok("GET", f"/instances/{source['id']}/backups")["backups"] == [copy, parent]

        subprocess.run(snaphold("stop", "--state-dir", near), check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(near)
        restored = iad.instance(restorePoint={"backupRef": copy["id"]})
        assert query(restored, "CHECKSUM TABLE t") == expected
    finally:
        for service in services.values():
            if service.process is not None and service.process.poll() is None:
                service.end()


@pytest.mark.parametrize("step", [Step.COPY_SEGMENTS_WRITTEN, Step.COPY_MANIFEST_WRITTEN, Step.COPY_RECORDED])
def test_a_copy_is_struck(state_dir: Path, instance_network: str, step: Step) -> None:
    """Whoever copies is killed -9: the next process goes on, and there is one copy, whole."""
    pauses = Pauses(state_dir / "pauses")
    service = Served(state_dir, instance_network, regions=("DFW", "IAD"))
    service.environment = pauses.environment
    service.start()
    try:
        backup = service.backup(service.instance())
        pauses.at(step)
        service.ok("POST", f"/backups/{backup['id']}/action", {"copy-backup": {"target_backup_region": "IAD"}})
        pauses.reached()
        kill(service.process_of("\0-m\0snaphold\0api", "--name\0DFW"))
        pauses.over()

        def shown() -> bool:
            with suppress(httpx.TransportError):
                copies = service.ok("GET", f"/backups/{backup['id']}")["backup"]["copies"]
                return [copy["status"] for copy in copies] == ["COMPLETED"]
            return False

        eventually(shown, "the copy to be made")
        (copy,) = copied(service, 1)
        store = state_dir / "regions" / "IAD" / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS"
        assert {path.name for path in store.iterdir()} == {
            f"{copy['id']}.{end}" for end in ("json", "index", "xbstream.gz")
        }
    finally:
        service.end()


def test_a_backup_is_mended_from_the_other_region(state_dir: Path, instance_network: str) -> None:
    """A damaged copy is repaired from its source, also when its region is killed -9 meanwhile; then the source from it.

    A verification says from where; afterwards every object is the same byte by byte.
    """
    pauses = Pauses(state_dir / "pauses")
    service = Served(state_dir, instance_network, regions=("DFW", "IAD"))
    service.environment = pauses.environment
    service.start()

    def path_of(region: str, backup_id: str, end: str) -> Path:
        return state_dir / "regions" / region / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS" / f"{backup_id}.{end}"

    def objects(region: str, backup_id: str) -> dict[str, bytes]:
        return {end: path_of(region, backup_id, end).read_bytes() for end in ("json", "index", "xbstream.gz")}

    def verified(region: str, backup_id: str, status: str) -> Any:
        def look() -> Any:
            with suppress(httpx.TransportError):
                call = in_iad if region == "IAD" else Served.call
                found = call(service, "GET", f"/backups/{backup_id}").json()["backup"].get("verification")
                return found if found is not None and found["status"] == status else None
            return None

        return eventually(look, f"the proof in {region} to be {status}")

    try:
        backup_id = service.backup(service.instance())["id"]
        service.ok("POST", f"/backups/{backup_id}/action", {"copy-backup": {"target_backup_region": "IAD"}})
        copy_id = copied(service, 1)[0]["id"]
        there, here = objects("IAD", copy_id), objects("DFW", backup_id)
        path_of("IAD", copy_id, "xbstream.gz").write_bytes(there["xbstream.gz"][:-1] + b"?")
        path_of("IAD", copy_id, "json").unlink()
        assert in_iad(service, "POST", f"/backups/{copy_id}/action", {"verify": {}}).status_code == 202
        assert verified("IAD", copy_id, "failed")["mend_from"] == "DFW"
        pauses.at(Step.REPAIR_SEGMENT_WRITTEN)
        assert in_iad(service, "POST", f"/backups/{copy_id}/action", {"mend": {}}).status_code == 202
        pauses.reached()
        kill(service.process_of("\0-m\0snaphold\0api", "--name\0IAD"))
        pauses.over()
        verified("IAD", copy_id, "passed")
        assert objects("IAD", copy_id) == there

        for end in ("xbstream.gz", "index", "json"):
            path_of("DFW", backup_id, end).unlink()
        service.ok("POST", f"/backups/{backup_id}/action", {"verify": {}})
        assert verified("DFW", backup_id, "failed")["mend_from"] == "IAD"
        service.ok("POST", f"/backups/{backup_id}/action", {"mend": {}})
        verified("DFW", backup_id, "passed")
        assert objects("DFW", backup_id) == here
    finally:
        service.end()
