"""Objects that were damaged, exchanged or lost: found before anything is trusted, and named."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.served import ACCOUNT, Served, eventually, query, served, snaphold

pytestmark = pytest.mark.engine

Damage = Callable[[Path, str, str], None]  # container, the backup's id, another backup's id


class Vault:
    """A service with two good backups of one instance, and copies of their objects to put back."""

    def __init__(self, service: Served) -> None:
        self.service = service
        source = service.instance()
        query(source, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200)) ENGINE=InnoDB")
        query(source, "INSERT INTO t VALUES (%s, %s)", [(n, "x" * (n % 150)) for n in range(5000)])
        self.expected = query(source, "CHECKSUM TABLE t")
        self.good, self.other = service.backup(source), service.backup(source)
        self.container = service.state_dir / "regions" / "DFW" / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS"
        self._copies = service.state_dir / "copies"
        shutil.copytree(self.container, self._copies)

    def mend(self) -> None:
        """Put every object back as it was."""
        for copy in self._copies.iterdir():
            if copy.name.endswith(".proof.json"):
                continue
            shutil.copyfile(copy, self.container / copy.name)

    def restore(self) -> Any:
        """The instance that a restore of the good backup ends in: ACTIVE or ERROR."""
        wanted = {"name": "r", "flavorRef": 1, "restorePoint": {"backupRef": self.good["id"]}}
        made = self.service.ok("POST", "/instances", {"instance": wanted})["instance"]
        path = f"/instances/{made['id']}"

        def ended() -> Any:
            thing = self.service.ok("GET", path)["instance"]
            return thing if thing["status"] in {"ACTIVE", "ERROR"} else None

        return eventually(ended, f"{path} to end")

    def verify(self, level: str) -> tuple[int, dict[str, str]]:
        """What `snaphold verify --all` ends with, and says of each backup."""
        words = snaphold("verify", "--state-dir", self.service.state_dir, "--all", "--level", level)
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=60, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, {line["backup"]: line["status"] for line in lines}

    def steps_of(self, instance: Any) -> list[str]:
        """The steps that the agent reached for an instance."""
        lines = self.service.log.read_text(errors="replace").splitlines()
        found = (re.search(r" step=(\S+)", line) for line in lines if instance["id"] in line and "event=step" in line)
        return [match[1] for match in found if match]

    def forget(self, instance: Any) -> None:
        """Delete an instance, and see it gone."""
        path = f"/instances/{instance['id']}"
        self.service.ok("DELETE", path)
        eventually(lambda: self.service.call("GET", path).status_code == 404, f"{path} to be gone")


@pytest.fixture(scope="module")
def vault(lasting_state_dir: Path, instance_network: str) -> Iterator[Vault]:
    """One service for every damage."""
    with served(lasting_state_dir, instance_network, "--log-level=debug") as service:
        yield Vault(service)


def flip_a_byte(container: Path, backup: str, _other: str) -> None:
    """Of the data, in the middle."""
    with (container / f"{backup}.xbstream.gz").open("r+b") as file:
        middle = file.seek(0, 2) // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


def flip_the_index(container: Path, backup: str, _other: str) -> None:
    """One bit of it."""
    path = container / f"{backup}.index"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_the_last_byte(container: Path, backup: str, _other: str) -> None:
    """Of the data."""
    path = container / f"{backup}.xbstream.gz"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def lose_the_data(container: Path, backup: str, _other: str) -> None:
    """All of it."""
    (container / f"{backup}.xbstream.gz").unlink()


def exchange_the_data(container: Path, backup: str, other: str) -> None:
    """For another backup's, made as long."""
    path = container / f"{backup}.xbstream.gz"
    size = path.stat().st_size
    path.write_bytes((container / f"{other}.xbstream.gz").read_bytes().ljust(size, b"\0")[:size])


def change_the_manifest(container: Path, backup: str, _other: str) -> None:
    """One word of it, which changes nothing that a restore needs."""
    path = container / f"{backup}.json"
    path.write_text(path.read_text().replace('"name": "b"', '"name": "c"'))


def lose_the_manifest(container: Path, backup: str, _other: str) -> None:
    """All of it."""
    (container / f"{backup}.json").unlink()


def exchange_everything(container: Path, backup: str, other: str) -> None:
    """Another backup's data, under a manifest that fits it in all but the hash that the catalog keeps."""
    data = (container / f"{other}.xbstream.gz").read_bytes()
    (container / f"{backup}.xbstream.gz").write_bytes(data)
    manifest = json.loads((container / f"{other}.json").read_text().replace(other, backup))
    assert [one["sha256"] for one in manifest["segments"]] == [sha256(data).hexdigest()]
    (container / f"{backup}.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "ending", "furthest"),
    [
        pytest.param(flip_a_byte, ".xbstream.gz", "restore.staged", id="a flipped byte"),
        pytest.param(exchange_the_data, ".xbstream.gz", "restore.staged", id="data of another backup"),
        pytest.param(cut_the_last_byte, ".xbstream.gz", "restore.claimed", id="data cut short"),
        pytest.param(lose_the_data, ".xbstream.gz", "restore.claimed", id="lost data"),
        pytest.param(change_the_manifest, ".json", "restore.claimed", id="a changed manifest"),
        pytest.param(lose_the_manifest, ".json", "restore.claimed", id="a lost manifest"),
        pytest.param(exchange_everything, ".json", "restore.claimed", id="a forged backup"),
    ],
)
def test_a_damaged_backup_is_never_restored(vault: Vault, damage: Damage, ending: str, furthest: str) -> None:
    """The restore ends in ERROR naming the object, before any server is started, and leaves nothing on the host.

    The backup stays COMPLETED and is restored as soon as its objects are whole again.
    """
    damage(vault.container, vault.good["id"], vault.other["id"])
    try:
        instance = vault.restore()
    finally:
        vault.mend()

    assert instance["status"] == "ERROR"
    assert f"{vault.good['id']}{ending}" in instance["reason"]
    assert vault.steps_of(instance)[-1] == furthest
    assert not (vault.service.state_dir / "instances" / instance["id"]).exists()
    assert vault.service.processes(instance["id"]) == []
    assert vault.service.ok("GET", f"/backups/{vault.good['id']}")["backup"]["status"] == "COMPLETED"
    vault.forget(instance)


def test_a_damaged_backup_fails_its_proofs(vault: Vault) -> None:
    """Each level finds the damage and names the object; nothing is removed; repaired, the backup passes again."""
    whole = sorted(path.name for path in vault.container.iterdir())
    for damage, ending in (
        (flip_a_byte, ".xbstream.gz"),
        (flip_the_index, ".index"),
        (change_the_manifest, ".json"),
    ):
        damage(vault.container, vault.good["id"], vault.other["id"])
        try:
            assert vault.verify("objects") == (1, {vault.good["id"]: "failed", vault.other["id"]: "passed"})
            failed = vault.service.ok("GET", f"/backups/{vault.good['id']}")["backup"]
            assert (failed["status"], failed["verification"]["status"]) == ("COMPLETED", "failed")
            assert f"{vault.good['id']}{ending}" in failed["verification"]["reason"]
        finally:
            vault.mend()
    flip_a_byte(vault.container, vault.good["id"], vault.other["id"])
    try:
        assert vault.verify("restore") == (1, {vault.good["id"]: "failed", vault.other["id"]: "passed"})
    finally:
        vault.mend()
    assert vault.verify("restore") == (0, {vault.good["id"]: "passed", vault.other["id"]: "passed"})
    assert sorted(path.name for path in vault.container.iterdir()) == whole
    verification_records = [
        json.loads((vault.container / f"{b['id']}.proof.json").read_text()) for b in (vault.good, vault.other)
    ]
    tables = [verification_record["checksums"]["tables"] for verification_record in verification_records]
    assert tables == [{"shop.t": vault.expected[0][1]}] * 2


def test_a_whole_backup_is_restored(vault: Vault) -> None:
    """What was damaged and repaired is a good backup."""
    instance = vault.restore()
    assert instance["status"] == "ACTIVE", instance
    assert query(instance, "CHECKSUM TABLE t") == vault.expected
    vault.forget(instance)
