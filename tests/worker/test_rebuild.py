import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from snaphold.catalog import backups, instances
from snaphold.errors import Superseded, Transient
from snaphold.formats.verification_record import VerificationRecord
from snaphold.model import Backup, BackupStatus, parse_rfc3339
from snaphold.objects import backup_prefix, verification_record_name
from snaphold.protocol import BackupResult, Report
from snaphold.service.backups import list_instance_backups, request_backup, show_backup
from snaphold.service.outcomes import report
from snaphold.service.requests import PageRequest, ScheduleRequest
from snaphold.service.schedules import create_schedule
from snaphold.steps import Step, observers
from snaphold.worker.deletion import Remover
from snaphold.worker.rebuild import Rebuilt, end_rebuild, rebuild
from snaphold.worker.schedules import Scheduler
from tests.fakes.memory_store import Fault, MemoryStores
from tests.support.manifests import a_backup_record, put_backup
from tests.support.region import ACCOUNT, Region, a_backup, open_region

OTHER = "5678"


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """A region with one host that is there, and no backup in the catalog."""
    region = open_region(tmp_path)
    yield region
    region.deployment.catalog.close()


@pytest.fixture
def stores() -> MemoryStores:
    """Containers that nobody has used."""
    return MemoryStores()


def rebuilt(region: Region, stores: MemoryStores, *accounts: str) -> Rebuilt:
    """What the command does."""
    return rebuild(region.deployment.catalog, stores, region.deployment.deployment_id, accounts or None)


def put(region: Region, stores: MemoryStores, number: int, parent: Backup | None = None) -> Backup:
    """A backup in the store, without a record."""
    backup = a_backup_record(number, parent)
    return put_backup(stores.of(ACCOUNT), backup, region.deployment.deployment_id, parent)


def record(region: Region, backup: Backup) -> None:
    """Have a record of it."""
    with region.deployment.catalog.writing() as tx:
        assert backups.insert(tx, backup)


def on_record(region: Region) -> dict[str, Backup]:
    """Every record of a backup."""
    with region.deployment.catalog.reading() as tx:
        ids = list(tx.connection.execute(sa.text("SELECT id FROM backups")).scalars())
        found = [backups.get(tx, each) for each in ids]
    return {backup.id: backup for backup in found if backup is not None}


def told(result: Rebuilt) -> list[tuple[str, str, bool]]:
    """Object, reason and whether that means damage."""
    return [(one.name, one.reason, one.damaged) for one in result.told]


def test_records_are_made_anew_to_the_last_field(region: Region, stores: MemoryStores) -> None:
    """What a rebuild makes is what was recorded when the backups completed; a second one finds it there."""
    full = put(region, stores, 5)
    first = put(region, stores, 4, full)  # by name before its parent
    second = put(region, stores, 3, first)
    elsewhere = a_backup_record(9, account=OTHER)
    elsewhere = put_backup(stores.of(OTHER), elsewhere, region.deployment.deployment_id)
    result = rebuilt(region, stores)
    expected = {backup.id: backup for backup in (full, first, second, elsewhere)}
    assert on_record(region) == expected
    assert {backup.id for backup in result.made} == set(expected)
    assert (result.kept, result.told) == (0, [])
    again = rebuilt(region, stores)
    assert (again.made, again.kept, again.told) == ([], 4, [])
    assert on_record(region) == expected


def test_what_a_proof_has_shown_is_on_record_again(region: Region, stores: MemoryStores) -> None:
    """The record beside a manifest tells the verification's result; one of other bytes under this name is ignored."""
    verified, other = put(region, stores, 1), put(region, stores, 2)
    facts = {"status": "passed", "level": "objects", "at": "2026-01-02T03:04:05Z", "seconds": 1.5, "by": "0.1.0"}
    for backup, sha256 in ((verified, verified.manifest_sha256), (other, "0" * 64)):
        verification_record = VerificationRecord.model_validate({"id": backup.id, "manifest_sha256": sha256, **facts})
        stores.of(ACCOUNT).put(verification_record_name(backup.id), verification_record.dump())
    rebuilt(region, stores)
    shown = on_record(region)[verified.id]
    assert (shown.proof_status, shown.proof_level, shown.proof_seconds) == ("passed", "objects", 1.5)
    assert shown.proof_at_us == parse_rfc3339("2026-01-02T03:04:05Z")
    assert on_record(region)[other.id] == other


def test_only_one_account(region: Region, stores: MemoryStores) -> None:
    """Of the accounts that were not named nothing is looked at."""
    put(region, stores, 1)
    put_backup(stores.of(OTHER), a_backup_record(2, account=OTHER), region.deployment.deployment_id)
    assert [backup.account for backup in rebuilt(region, stores, OTHER).made] == [OTHER]


def test_the_backups_of_a_lost_instance_are_listed(region: Region, stores: MemoryStores) -> None:
    """An instance that nobody remembers is known again as a deleted one, of no host: no server goes for it."""
    backup = put(region, stores, 1)
    assert backup.instance_id is not None
    rebuilt(region, stores)
    page = list_instance_backups(region.deployment, ACCOUNT, backup.instance_id, PageRequest(limit=20, marker=None))
    assert page.backups == [backup]
    with region.deployment.catalog.reading() as tx:
        instance = instances.get(tx, backup.instance_id)
    assert instance is not None
    assert instance.deleted_us is not None
    assert instance.host_id == ""


def test_an_instance_that_is_there_stays_as_it_is(region: Region, stores: MemoryStores) -> None:
    """The record of a living instance is not touched by its backups' rebuild."""
    instance = region.active_instance()
    backup = replace(a_backup_record(1), instance_id=instance.id, source_id=instance.id)
    put_backup(stores.of(ACCOUNT), backup, region.deployment.deployment_id)
    rebuilt(region, stores)
    with region.deployment.catalog.reading() as tx:
        assert instances.get(tx, instance.id) == instance


def ended(status: BackupStatus, **more: object) -> dict[str, object]:
    """What a record says of a backup that is none any more."""
    return {"status": status, "reason": "it was told to fail", **more}


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (ended(BackupStatus.FAILED), "FAILED"),
        (ended(BackupStatus.DELETE_FAILED), "DELETE_FAILED"),
        (ended(BackupStatus.COMPLETED, deleted_us=1), "deleted"),
        (ended(BackupStatus.BUILDING), "BUILDING"),
    ],
    ids=["failed", "delete-failed", "deleted", "building"],
)
def test_a_surviving_record_stands(
    region: Region, stores: MemoryStores, says: dict[str, object], expected: str
) -> None:
    """What a record calls failed, deleted or running is told of, and not revived."""
    backup = replace(put(region, stores, 1), **says)  # type: ignore[arg-type] # values of the table above
    record(region, backup)
    assert told(rebuilt(region, stores)) == [(f"{backup.id}.json", f"it is recorded as {expected}", False)]
    assert on_record(region) == {backup.id: backup}


def test_a_manifest_that_is_not_the_recorded_one(region: Region, stores: MemoryStores) -> None:
    """A manifest of another hash than the recorded one is told of as damage; the catalog trusts its own."""
    backup = replace(put(region, stores, 1), manifest_sha256="0" * 64)
    record(region, backup)
    ((name, _, damaged),) = told(rebuilt(region, stores))
    assert (name, damaged) == (f"{backup.id}.json", True)
    assert on_record(region) == {backup.id: backup}


def test_work_that_is_under_way(region: Region, stores: MemoryStores) -> None:
    """A backup whose record was lost while its host still writes it is left to its host."""
    instance = region.active_instance()
    asked = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    with region.deployment.catalog.writing() as tx:
        tx.connection.execute(sa.text("DELETE FROM backups"))
    backup = replace(a_backup_record(1), id=asked.id, object_name=f"{asked.id}.xbstream.gz")
    put_backup(stores.of(ACCOUNT), backup, region.deployment.deployment_id)
    assert told(rebuilt(region, stores)) == [(f"{asked.id}.json", "work on it is under way", False)]
    assert on_record(region) == {}


def test_what_is_not_ours_is_told_of(region: Region, stores: MemoryStores) -> None:
    """Manifests of other deployments and files of orphaned objects are no damage, and no backups."""
    others = put_backup(stores.of(ACCOUNT), a_backup_record(1), "another-deployment")
    store = stores.of(ACCOUNT)
    store.put("00000002-0000-4000-8000-000000000000.json", b'{"a": "shopping list"}')
    store.put("notes.json", b"somebody's")
    store.put(f"{others.id}.proof.json", b"{}")
    before = dict(store.objects)
    assert told(rebuilt(region, stores)) == [
        (f"{others.id}.json", "it is of deployment another-deployment", False),
        ("00000002-0000-4000-8000-000000000000.json", "it is no manifest", False),
    ]
    assert on_record(region) == {}
    assert store.objects == before


Objects = dict[str, bytes]


def without(*names: str) -> Callable[[Objects, str], None]:
    """Lose objects."""

    def harm(objects: Objects, backup_id: str) -> None:
        for name in names:
            del objects[f"{backup_id}.{name}"]

    return harm


def saying(**fields: object) -> Callable[[Objects, str], None]:
    """Have the manifest say something else; None: nothing of it."""

    def harm(objects: Objects, backup_id: str) -> None:
        manifest = json.loads(objects[f"{backup_id}.json"]) | fields
        kept = {key: value for key, value in manifest.items() if value is not None}
        objects[f"{backup_id}.json"] = json.dumps(kept).encode()

    return harm


def cut(name: str) -> Callable[[Objects, str], None]:
    """Lose an object's end."""

    def harm(objects: Objects, backup_id: str) -> None:
        objects[f"{backup_id}.{name}"] = objects[f"{backup_id}.{name}"][:-3]

    return harm


_FOREIGN_DATASTORE = {
    "type": "../../etc/passwd",
    "version": "10.11",
    "version_id": "v",
    "server_version": "10.11.19",
    "tool_version": "10.11.19",
}
HARMS: dict[str, Callable[[Objects, str], None]] = {
    "no JSON": cut("json"),
    "a field is missing": saying(lineage=None),
    "a time that is none": saying(created="yesterday"),
    "a time before all times": saying(created="0001-01-01T00:00:00+23:59"),
    "a number too large": saying(size_bytes=1 << 63),
    "a negative number": saying(volume_gb=-1),
    "no name": saying(name=""),
    "a datastore that is none": saying(datastore=_FOREIGN_DATASTORE),
    "segments that do not add up": saying(segments=[{"size_bytes": 1, "sha256": "0" * 64}]),
    "a riddle": lambda objects, backup_id: objects.update({f"{backup_id}.json": b"[" * 200_000}),
    "of another account": saying(account=OTHER),
    "of another backup": saying(id="another"),
    "objects of another backup": saying(data={"name": "another.xbstream.gz", "size_bytes": 1, "sha256": "0" * 64}),
    "no data object": without("xbstream.gz"),
    "no index": without("index"),
    "a shorter data object": cut("xbstream.gz"),
}


@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_backup_is_told_of_and_not_made(region: Region, stores: MemoryStores, how: str) -> None:
    """What is not whole, or not what its name and place say, gets no record; nor do the increments on it."""
    whole = put(region, stores, 1)
    backup = put(region, stores, 2)
    child = put(region, stores, 3, backup)
    HARMS[how](stores.of(ACCOUNT).objects, backup.id)
    result = rebuilt(region, stores)
    assert on_record(region) == {whole.id: whole}
    assert [(name, damaged) for name, _, damaged in told(result)] == [
        (f"{backup.id}.json", True),
        (f"{child.id}.json", True),
    ]


def test_the_catalog_of_another_store(region: Region, stores: MemoryStores) -> None:
    """Where nothing is made of what is there, that is said, with the deployment that has written most of it."""
    assert not rebuilt(region, stores).fruitless
    lost = [put_backup(stores.of(ACCOUNT), a_backup_record(number), "lost-one") for number in (1, 2)]
    put_backup(stores.of(OTHER), a_backup_record(3, account=OTHER), "other-one")
    strange = a_backup_record(4)
    put_backup(stores.of(ACCOUNT), strange, "\x1b[2J")
    found = rebuilt(region, stores)
    assert found.fruitless
    assert found.others == {"lost-one": len(lost), "other-one": 1}
    put(region, stores, 5)
    assert not rebuilt(region, stores).fruitless
    assert not rebuilt(region, stores).fruitless, "one is on record already"
    stores.of(ACCOUNT).objects.clear()
    stores.of(OTHER).objects.clear()
    assert rebuilt(region, stores).fruitless, "the catalog has a backup, and the store is empty"


def test_a_delete_meanwhile_is_no_damage(region: Region, stores: MemoryStores) -> None:
    """A backup that somebody deletes while its manifest is looked at is not told of."""
    backup = put(region, stores, 1)
    store = stores.of(ACCOUNT)

    def delete(method: str) -> None:
        if method == "size":
            store.objects.clear()

    store.on_call = delete
    result = rebuilt(region, stores)
    assert (result.made, result.told) == ([], []), backup.id


def test_a_chain_is_trusted_by_the_hashes_of_its_parents(region: Region, stores: MemoryStores) -> None:
    """An increment on another manifest than the parent's own is not revived: it was not made on that backup."""
    full = put(region, stores, 1)
    swapped = replace(full, manifest_sha256="1" * 64)
    child = put(region, stores, 2, swapped)
    ((name, reason, damaged),) = told(rebuilt(region, stores))
    assert (name, damaged) == (f"{child.id}.json", True)
    assert "is not the one that it was made on" in reason
    assert on_record(region) == {full.id: full}


def test_increments_on_a_deleted_backup(region: Region, stores: MemoryStores) -> None:
    """What hangs under a backup that a record calls deleted is not revived."""
    full = put(region, stores, 1)
    put(region, stores, 2, full)
    gone = replace(full, deleted_us=5)
    record(region, gone)
    stores.of(ACCOUNT).delete(f"{full.id}.json")
    ((_, reason, damaged),) = told(rebuilt(region, stores))
    assert (reason, damaged) == (f"its parent {full.id} is recorded as deleted", False)
    assert on_record(region) == {gone.id: gone}


def test_a_rebuild_that_is_cut_short(region: Region, stores: MemoryStores) -> None:
    """Ended at any step, or by a store that falls silent, and run again: the same records."""
    full = put(region, stores, 1)
    expected = {backup.id: backup for backup in (full, put(region, stores, 2, full), put(region, stores, 3))}

    class Killed(BaseException):
        pass

    def kill(step: Step) -> None:
        if step is Step.REBUILD_RECORDED:
            raise Killed

    for _ in expected:
        observers.append(kill)
        try:
            with pytest.raises(Killed):
                rebuilt(region, stores)
        finally:
            observers.remove(kill)
    store = stores.of(ACCOUNT)
    store.faults.append(Fault(method="get", first=store.calls["get"] + 1, last=store.calls["get"] + 1))
    with pytest.raises(Transient):
        rebuilt(region, stores)
    assert rebuilt(region, stores).told == []
    assert on_record(region) == expected


def test_nothing_is_swept_until_a_person_says_so(region: Region, stores: MemoryStores) -> None:
    """After a rebuild what failed attempts left stays; once it is said to be right, all of it is swept."""
    rebuilt(region, stores)
    instance = region.active_instance()
    failed = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    left = f"{backup_prefix(region.deployment.deployment_id, failed.id)}1/00000000"
    stores.of(ACCOUNT).put(left, b"x")
    region.report(task, ok=False)
    remover = Remover(region.deployment.catalog, stores, region.deployment.deployment_id)
    remover.sweep_backup(failed.id)
    remover.sweep_recent(0)
    assert left in stores.of(ACCOUNT).objects
    region.clock.advance(7 * 24 * 3600)
    assert end_rebuild(region.deployment.catalog, region.deployment.queue)
    assert [name for name, _ in region.enqueued()].count("sweep_backup") == 2
    remover.sweep_backup(failed.id)
    assert stores.of(ACCOUNT).objects == {}
    assert not end_rebuild(region.deployment.catalog, region.deployment.queue)


def test_no_schedule_removes_what_was_rebuilt(region: Region, stores: MemoryStores) -> None:
    """Automated fulls beyond a schedule's retention stay until a person has said that the rebuild is right."""
    instance = region.active_instance()
    schedule = ScheduleRequest(
        source_type="instance",
        source_id=instance.id,
        day_of_week=0,
        hour=0,
        minute=0,
        full_backup_retention=2,
        copy_to=None,
    )
    create_schedule(region.deployment, ACCOUNT, schedule)
    for number in (2, 4, 6):
        backup = replace(a_backup_record(number), instance_id=instance.id, source_id=instance.id)
        put_backup(stores.of(ACCOUNT), backup, region.deployment.deployment_id)
    rebuilt(region, stores)
    Scheduler(region.deployment).run()
    assert [backup.deleting for backup in on_record(region).values()] == [False] * 3
    end_rebuild(region.deployment.catalog, region.deployment.queue)
    Scheduler(region.deployment).run()
    assert sorted(backup.deleting for backup in on_record(region).values()) == [False, False, True]


def test_a_rebuilt_backup_can_be_deleted(region: Region, stores: MemoryStores) -> None:
    """A DELETE is a person's word: it takes the objects, also while the sweep is held."""
    backup = put(region, stores, 1)
    rebuilt(region, stores)
    assert show_backup(region.deployment, ACCOUNT, backup.id) == backup
    Remover(region.deployment.catalog, stores, region.deployment.deployment_id).delete_backup(backup.id)
    assert stores.of(ACCOUNT).objects == {}


def test_a_report_that_comes_after_the_rebuild(region: Region, stores: MemoryStores) -> None:
    """The record was lost while a host reported: it must not remove what was found in the store meanwhile."""
    backup = put(region, stores, 1)
    rebuilt(region, stores)
    task_id = str(uuid.uuid4())
    result = BackupResult(
        manifest_sha256=str(backup.manifest_sha256),
        size_bytes=1,
        object_bytes=1,
        object_name=str(backup.object_name),
        incarnation="i",
        from_lsn=None,
        checkpoint_lsn=1,
        to_lsn=1,
        updated="2026-01-02T03:04:05Z",
    )
    message = Report(session=region.session, attempt=1, ok=True, backup=result)
    report(region.deployment, region.host_id, task_id, message)
    assert on_record(region)[backup.id] == backup
    other = message.model_copy(update={"backup": result.model_copy(update={"manifest_sha256": "0" * 64})})
    with pytest.raises(Superseded):
        report(region.deployment, region.host_id, task_id, other)
    assert on_record(region)[backup.id] == backup
