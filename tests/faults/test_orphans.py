"""A container that others use too: whatever the service does, what is not its own stays as it was."""

import json
from pathlib import Path
from typing import Final

import pymysql
import pytest

from tests.scenarios.served import ACCOUNT, PASSWORD, Served, eventually, query, served

pytestmark = pytest.mark.engine

UNKNOWN: Final = "5f2c9a31-7d0e-4f6b-9a3c-1b2d3e4f5a6b"  # a backup that no record of ours knows
FOREIGN: Final = (
    f"{UNKNOWN}.xbstream.gz",
    f"{UNKNOWN}.json",
    f"{UNKNOWN}.xbstream.gz_00000000",
    f"snaphold/{UNKNOWN}/{UNKNOWN}/1/segments",  # an upload of another deployment
    f"snaphold/{UNKNOWN}/{UNKNOWN}/1/sizes",
    "notes.txt",
    "Umlaute und Leerzeichen: äöü",
    "deep/er/and/deeper/object",
    f"{UNKNOWN}.index.0123456789abcdef.tmp",
)


def facts_of(container: Path, names: list[str]) -> dict[str, tuple[object, ...]]:
    """What can be seen of files: content, inode, time."""
    facts: dict[str, tuple[object, ...]] = {}
    for name in names:
        path = container / name
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes()
        facts[name] = (content, status.st_ino, status.st_mtime_ns, status.st_mode)
    return facts


def ours_in(container: Path, names: list[str]) -> set[str]:
    """The files of a container beside the foreign ones."""
    return {str(path.relative_to(container)) for path in container.rglob("*") if not path.is_dir()} - set(names)


def failed_backup(service: Served, instance: object) -> str:
    """A backup that fails after it has put segments: a client holds a table lock for too long."""
    assert isinstance(instance, dict)
    connection = pymysql.connect(host=instance["ip"][0], user="app", password=PASSWORD, database="shop")
    with connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES t WRITE")
        made = service.ok("POST", "/backups", {"backup": {"name": "f", "instance": instance["id"]}})["backup"]
        path = f"/backups/{made['id']}"
        eventually(lambda: service.ok("GET", path)["backup"]["status"] == "FAILED", "the backup to fail")
    return str(made["id"])


def test_objects_of_others_stay(state_dir: Path, instance_network: str) -> None:
    """Backups taken, deleted and failed, the sweep and a restart leave every foreign object byte for byte."""
    flags = ("--lock-wait-timeout-s=1", "--sweep-interval-s=0.5", "--sweep-grace-s=0", "--lease-s=3", "--renew-s=1")
    container = state_dir / "regions" / "DFW" / "store" / ACCOUNT / "z_CLOUDDB_BACKUPS"
    container.mkdir(parents=True)
    for name in FOREIGN:
        path = container / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}")
    (container / "link").symlink_to("notes.txt")
    names = [*FOREIGN, "link"]
    before = facts_of(container, names)

    with served(state_dir, instance_network, *flags) as service:
        source = service.instance()
        query(source, "CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB")
        kept, dropped = service.backup(source), service.backup(source)
        # Uploads that this deployment itself began, says their prefix, but of which the catalog knows nothing.
        deployment = json.loads((container / f"{kept['id']}.json").read_text())["deployment"]
        unrecorded = f"snaphold/{deployment}/{UNKNOWN}/1/segments"
        (container / unrecorded).parent.mkdir(parents=True)
        (container / unrecorded).write_text("whose?")
        names.append(unrecorded)
        before |= facts_of(container, [unrecorded])

        failed = failed_backup(service, source)
        eventually(lambda: not service.objects_of({"id": failed}), "the failed backup's sweep")
        service.ok("DELETE", f"/backups/{dropped['id']}")
        service.ok("DELETE", f"/backups/{failed}")
        for gone in (dropped["id"], failed):
            eventually(lambda gone=gone: service.call("GET", f"/backups/{gone}").status_code == 404, "the delete")  # type: ignore[misc]
        service.end()
        service.start()
        kept_too = service.backup(source)
        eventually(lambda: service.log.read_text(errors="replace").count("host.hello") > 1, "the restart")

    assert facts_of(container, names) == before
    ends = (".json", ".index", ".proof.json", ".xbstream.gz")
    expected = {f"{backup['id']}{end}" for backup in (kept, kept_too) for end in ends}
    assert ours_in(container, names) == expected
