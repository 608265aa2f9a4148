"""Reading back what the record knows: bytes that differ fail a verification, a silent store leaves it unknown."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from snaphold.errors import Permanent, SnapholdError, Transient
from snaphold.formats.manifest import DataFacts, IndexFacts, Manifest, sha256_of
from snaphold.formats.verification_record import Checksums, VerificationRecord
from snaphold.model import Backup, BackupStatus, VerificationLevel, VerificationStatus
from snaphold.objects import verification_record_name
from snaphold.protocol import Report
from snaphold.service import outcomes
from snaphold.service.backups import request_backup, show_backup
from snaphold.service.verification import request_verification
from snaphold.steps import Step, observers
from snaphold.stream.verification import read_verification_record
from snaphold.worker.verification import Verifier
from tests.fakes.memory_store import Fault, MemoryStore, MemoryStores
from tests.stream.backups import NAME, SEGMENT, taken
from tests.support.region import ACCOUNT, Region, a_backup, a_result, open_region

STREAM = random.Random(1).randbytes(2 * SEGMENT)  # does not shrink: three segments


class Vault:
    """A region with one completed backup in a store that fails on request."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.stores = MemoryStores()
        self.store: MemoryStore = self.stores.of(ACCOUNT)
        self.stop = threading.Event()
        self.verifier = Verifier(region.deployment, self.stores, self.stop)
        self._instance_id = region.active_instance().id
        self.id, self.sha256 = self.take()

    def take(self, parent_id: str | None = None, name: str = "b") -> tuple[str, str]:
        """A completed backup: its id, and its manifest's hash."""
        region = self.region
        wanted = replace(a_backup(self._instance_id, name), parent_id=parent_id)
        asked = request_backup(region.deployment, ACCOUNT, wanted)
        sha256 = sha256_of(self._stored(asked.id).dump())
        task = region.claim()
        assert task is not None
        result = a_result(task).model_copy(update={"manifest_sha256": sha256})
        message = Report(session=region.session, attempt=task.attempt, ok=True, backup=result)
        outcomes.report(region.deployment, region.host_id, task.id, message)
        return asked.id, sha256

    def _stored(self, backup_id: str) -> Manifest:
        manifest = taken(self.store, STREAM)
        data = self.store.objects[f"{backup_id}.xbstream.gz"] = self.store.objects.pop(NAME)
        index = self.store.objects[f"{backup_id}.index"] = b"an index"
        manifest = manifest.model_copy(
            update={
                "id": backup_id,
                "data": DataFacts(name=f"{backup_id}.xbstream.gz", size_bytes=len(data)),
                "index": IndexFacts(name=f"{backup_id}.index", size_bytes=len(index), sha256=sha256_of(index)),
            }
        )
        self.store.objects[f"{backup_id}.json"] = manifest.dump()
        return manifest

    def verify(self) -> Backup:
        """Ask for a verification and let the worker give it; the backup afterwards."""
        request_verification(self.region.deployment, ACCOUNT, self.id, VerificationLevel.OBJECTS)
        self.verifier.verify(self.id)
        return self.backup

    @property
    def backup(self) -> Backup:
        """As it is now."""
        return show_backup(self.region.deployment, ACCOUNT, self.id)

    @property
    def verification_record(self) -> VerificationRecord | None:
        """What is kept."""
        return read_verification_record(self.store, self.id, self.sha256)

    def flip(self, end: str) -> None:
        """Change one bit in the middle of an object."""
        content = bytearray(self.store.objects[f"{self.id}{end}"])
        content[len(content) // 2] ^= 1
        self.store.objects[f"{self.id}{end}"] = bytes(content)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """A good backup."""
    region = open_region(tmp_path)
    yield Vault(region)
    region.deployment.catalog.close()


def test_a_good_backup_passes(vault: Vault) -> None:
    """Catalog and verification record hold result, time and duration; the status stays, and it is free again."""
    backup = vault.verify()
    assert (backup.status, backup.proving) == (BackupStatus.COMPLETED, None)
    assert (backup.proof_status, backup.proof_level, backup.proof_reason) == (
        VerificationStatus.PASSED,
        VerificationLevel.OBJECTS,
        None,
    )
    verification_record = vault.verification_record
    assert verification_record is not None
    assert (verification_record.status, verification_record.level) == (
        VerificationStatus.PASSED,
        VerificationLevel.OBJECTS,
    )
    assert (verification_record.seconds, verification_record.reason) == (backup.proof_seconds, None)


@pytest.mark.parametrize("end", [".xbstream.gz", ".index", ".json"])
@pytest.mark.parametrize("loss", [False, True], ids=["flipped", "lost"])
def test_a_damaged_backup_fails(vault: Vault, end: str, loss: bool) -> None:  # noqa: FBT001 - one of a table
    """The reason names the object; nothing is deleted, no status moves; once it is whole again it passes."""
    whole = dict(vault.store.objects)
    if loss:
        del vault.store.objects[f"{vault.id}{end}"]
    else:
        vault.flip(end)
    backup = vault.verify()
    assert (backup.status, backup.proof_status) == (BackupStatus.COMPLETED, VerificationStatus.FAILED)
    assert f"{vault.id}{end}" in (backup.proof_reason or "")
    assert vault.verification_record is not None
    assert (vault.verification_record.status, vault.verification_record.reason) == (
        VerificationStatus.FAILED,
        backup.proof_reason,
    )
    assert set(vault.store.objects) - {verification_record_name(vault.id)} == set(whole) - (
        {f"{vault.id}{end}"} if loss else set()
    )
    vault.store.objects.update(whole)
    assert vault.verify().proof_status is VerificationStatus.PASSED
    assert vault.verification_record is not None
    assert vault.verification_record.status is VerificationStatus.PASSED


@pytest.mark.parametrize("end", [".xbstream.gz", ".index", ".json"])
def test_a_damaged_ancestor_fails_what_stands_on_it(vault: Vault, end: str) -> None:
    """An increment's parent is verified with it; the reason names it, and no region is offered for a repair."""
    middle, _ = vault.take(vault.id, "the middle one")
    last, sha256 = vault.take(middle, "the last one")
    whole = dict(vault.store.objects)
    full, vault.id = vault.id, middle
    vault.flip(end)
    vault.id, vault.sha256 = last, sha256
    backup = vault.verify()
    assert backup.proof_status is VerificationStatus.FAILED
    assert f'"the middle one" ({middle}), which it depends on, is damaged' in (backup.proof_reason or "")
    assert f"{middle}{end}" in (backup.proof_reason or "")
    assert vault.verification_record is not None
    assert vault.verification_record.status is VerificationStatus.FAILED
    vault.store.objects.update(whole)
    assert vault.verify().proof_status is VerificationStatus.PASSED

    # A verification record counts while the objects are as they were: size and time.
    before = vault.store.calls["get"]
    own = vault.verify()
    assert own.proof_status is VerificationStatus.PASSED
    segments_and_index_and_manifest, verification_records = (
        5,
        2 + 1,
    )  # its own objects; those that count, and the one it replaces
    assert vault.store.calls["get"] - before == segments_and_index_and_manifest + verification_records
    vault.id = full
    vault.flip(end)
    vault.id = last
    failed = vault.verify()
    assert failed.proof_status is VerificationStatus.FAILED
    assert f'"b" ({full}), which it depends on, is damaged' in (failed.proof_reason or "")


def test_no_record_says_passed_above_damage(vault: Vault) -> None:
    """The chain is read from the full backup upwards: an increment on a damaged full gets no record that it passed."""
    middle, middle_sha256 = vault.take(vault.id, "the middle one")
    last, _ = vault.take(middle, "the last one")
    vault.flip(".xbstream.gz")
    vault.id = last
    assert vault.verify().proof_status is VerificationStatus.FAILED
    assert read_verification_record(vault.store, middle, middle_sha256) is None


def test_one_bad_read(vault: Vault) -> None:
    """Bytes that differ are read once more: when they are right then, the backup has passed."""
    whole = vault.store.objects[f"{vault.id}.xbstream.gz"]

    def mend(method: str) -> None:
        if method == "get" and vault.store.calls["get"] >= 3:  # manifest, index, the first read
            vault.store.objects[f"{vault.id}.xbstream.gz"] = whole

    vault.flip(".xbstream.gz")
    vault.store.on_call = mend
    assert vault.verify().proof_status is VerificationStatus.PASSED


@pytest.mark.parametrize("error", [Transient("silent"), Permanent("refused"), OSError("broken")], ids=repr)
@pytest.mark.parametrize("method", ["get", "size"])
def test_a_store_that_does_not_answer(vault: Vault, error: Exception, method: str) -> None:
    """Unknown, whatever it was, and no longer in use; tried again when it is due, and passed then."""
    vault.store.faults = [Fault(method, error, last=99)]
    backup = vault.verify()
    assert (backup.status, backup.proving, backup.proof_status) == (
        BackupStatus.COMPLETED,
        None,
        VerificationStatus.UNKNOWN,
    )
    assert backup.proof_reason == (str(error) if isinstance(error, SnapholdError) else backup.proof_reason)
    assert vault.verification_record is None or method == "get"
    vault.store.faults = []
    vault.region.clock.advance(vault.region.deployment.settings.sweep_interval_s)
    vault.verifier.retry()
    assert [name for name, _ in vault.region.enqueued()] == ["prove_objects"] * 2
    vault.verifier.verify(vault.id)
    assert vault.backup.proof_status is VerificationStatus.PASSED


@pytest.mark.parametrize("error", [Transient("silent"), Permanent("read-only")], ids=repr)
@pytest.mark.parametrize("status", [VerificationStatus.PASSED, VerificationStatus.FAILED])
def test_a_result_that_the_store_does_not_keep(vault: Vault, error: Exception, status: VerificationStatus) -> None:
    """The catalog gets the result even if the store takes no record: a verification only needs to read."""
    if status is VerificationStatus.FAILED:
        vault.flip(".index")
    vault.store.faults = [Fault("replace", error, last=99)]
    assert vault.verify().proof_status is status
    assert vault.verification_record is None


def test_the_checksums_of_a_restore_are_kept(vault: Vault) -> None:
    """A later verification of the objects replaces the record, but keeps the checksums for later restores."""
    checksums = Checksums(server_version="10.11.19", tables={"shop.t": 1})
    vault.verify()
    assert vault.verification_record is not None
    restored = vault.verification_record.model_copy(update={"level": VerificationLevel.RESTORE, "checksums": checksums})
    vault.store.replace(verification_record_name(vault.id), restored.dump())
    vault.verify()
    assert vault.verification_record is not None
    assert (vault.verification_record.level, vault.verification_record.checksums) == (
        VerificationLevel.OBJECTS,
        checksums,
    )


def test_a_worker_that_is_stopped(vault: Vault) -> None:
    """Nothing is recorded: the next worker begins again, and only once, however often its job is there."""
    vault.stop.set()
    assert vault.verify().proving is VerificationLevel.OBJECTS
    assert vault.verification_record is None
    vault.stop.clear()
    vault.verifier.resume()
    assert [name for name, _ in vault.region.enqueued()] == ["prove_objects"] * 2
    vault.verifier.verify(vault.id)
    first = vault.backup
    vault.verifier.verify(vault.id)
    assert (vault.backup, first.proof_status) == (first, VerificationStatus.PASSED)


def test_a_proof_that_is_under_way_in_another_thread(vault: Vault) -> None:
    """The same job twice at once reads once."""
    seen: list[Callable[[], None]] = []

    def again(method: str) -> None:
        if method == "size" and not seen:
            seen.append(lambda: None)
            vault.verifier.verify(vault.id)

    vault.store.on_call = again
    assert vault.verify().proof_status is VerificationStatus.PASSED
    assert vault.store.calls["size"] == 1


def test_a_proof_that_is_asked_for_as_another_one_ends(vault: Vault) -> None:
    """Its job may come while the other thread is not quite done: it is given all the same, and holds nothing."""

    def ask(step: Step) -> None:
        if step is Step.VERIFICATION_RECORDED:
            observers.remove(ask)
            vault.verify()

    observers.append(ask)
    vault.verify()
    assert vault.store.calls["size"] == 2
    assert vault.backup.proving is None
