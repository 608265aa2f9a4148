"""Proofs as the record knows them: asked for, given, unknown, tried again."""

from dataclasses import replace

import pytest

from snaphold.catalog import backups as rows
from snaphold.errors import NotFound, Unavailable, Unprocessable
from snaphold.model import Backup, BackupStatus, VerificationLevel, VerificationStatus, rfc3339, verification_is_due
from snaphold.protocol import Report, Task, TaskKind
from snaphold.service import outcomes
from snaphold.service.backups import delete_backup, request_backup, show_backup
from snaphold.service.verification import request_verification, retry_verifications
from tests.support.region import ACCOUNT, SECOND_US, Region, a_backup, a_result, a_verification

OBJECTS, RESTORE = VerificationLevel.OBJECTS, VerificationLevel.RESTORE


@pytest.fixture
def backup(region: Region) -> Backup:
    """A completed backup."""
    return region.completed_backup(region.active_instance())


def verify(region: Region, backup: Backup, level: VerificationLevel) -> None:
    """Ask for a verification."""
    request_verification(region.deployment, ACCOUNT, backup.id, level)


def shown(region: Region, backup: Backup) -> Backup:
    """The backup as it is now."""
    return show_backup(region.deployment, ACCOUNT, backup.id)


def report(region: Region, task: Task, **change: object) -> None:
    """The host says what its verification has shown."""
    message = Report(session=region.session, attempt=task.attempt, ok=True, proof=a_verification(**change))
    outcomes.report(region.deployment, region.host_id, task.id, message)


def claimed(region: Region) -> Task:
    """The host's next task."""
    task = region.claim()
    assert task is not None
    return task


@pytest.mark.parametrize("level", VerificationLevel)
def test_a_backup_that_is_being_proven_is_in_use(region: Region, backup: Backup, level: VerificationLevel) -> None:
    """It cannot be deleted, nor verified a second time; it can be restored, and its status stays."""
    verify(region, backup, level)
    with pytest.raises(Unprocessable, match=f"Backup {backup.id} is in use."):
        delete_backup(region.deployment, ACCOUNT, backup.id)
    for again in VerificationLevel:
        with pytest.raises(Unprocessable, match="being verified"):
            verify(region, backup, again)
    now = shown(region, backup)
    assert (now.status, now.proving, now.proof_status) == (BackupStatus.COMPLETED, level, None)


def test_a_proof_of_objects_is_the_workers(region: Region, backup: Backup) -> None:
    """Its job is enqueued with the mark on the row; no host hears of it."""
    verify(region, backup, OBJECTS)
    assert [name for name, _ in region.enqueued()] == ["prove_objects"]
    assert region.claim() is None


def test_a_proof_by_a_restore_is_a_hosts(region: Region, backup: Backup) -> None:
    """The task names the whole chain, is no instance's, and its report is recorded; then the backup is free."""
    child = replace(backup, id="33333333-3333-4333-8333-333333333333", parent_id=backup.id)
    with region.deployment.catalog.writing() as tx:
        assert rows.insert(tx, child)
    verify(region, child, RESTORE)
    task = claimed(region)
    assert (task.kind, task.instance_id) == (TaskKind.VERIFY, None)
    assert [link.backup_id for link in task.chain] == [backup.id, child.id]
    report(region, task)
    now = shown(region, child)
    assert (now.proving, now.proof_status, now.proof_level) == (None, VerificationStatus.PASSED, RESTORE)
    assert (rfc3339(now.proof_at_us or 0), now.proof_seconds) == ("2026-01-02T03:04:05Z", 2.5)
    assert now.updated_us == child.updated_us
    delete_backup(region.deployment, ACCOUNT, child.id)


def test_what_cannot_be_proven(region: Region, backup: Backup) -> None:
    """Unknown 404; not COMPLETED, or being deleted, 422; without a host that is there 503, and nothing is marked."""
    with pytest.raises(NotFound):
        request_verification(region.deployment, ACCOUNT, "none", OBJECTS)
    with pytest.raises(NotFound):
        request_verification(region.deployment, "9999", backup.id, OBJECTS)
    region.clock.advance(region.deployment.settings.lease_s + 1)
    with pytest.raises(Unavailable):
        verify(region, backup, RESTORE)
    assert shown(region, backup).proving is None
    delete_backup(region.deployment, ACCOUNT, backup.id)
    with pytest.raises(Unprocessable, match="not COMPLETED"):
        verify(region, backup, OBJECTS)


def test_a_running_backup_cannot_be_proven(region: Region) -> None:
    """Only what is COMPLETED can."""
    running = request_backup(region.deployment, ACCOUNT, a_backup(region.active_instance().id))
    with pytest.raises(Unprocessable, match="not COMPLETED"):
        verify(region, running, OBJECTS)


@pytest.mark.parametrize("ending", ["silence", "another process", "a failure"])
def test_a_host_that_does_not_finish_a_proof(region: Region, backup: Backup, ending: str) -> None:
    """The verification is unknown with the reason, the backup stays COMPLETED and is free; later it is tried again."""
    verify(region, backup, RESTORE)
    task = claimed(region)
    if ending == "silence":
        region.clock.advance(region.deployment.settings.lease_s + 1)
        outcomes.reap(region.deployment)
    elif ending == "another process":
        region.hello()
    else:
        region.report(task, ok=False)
    now = shown(region, backup)
    assert (now.status, now.proving, now.proof_status) == (BackupStatus.COMPLETED, None, VerificationStatus.UNKNOWN)
    assert now.proof_reason
    region.clock.advance(region.deployment.settings.sweep_interval_s + 1)
    region.heartbeat()
    retry_verifications(region.deployment)
    report(region, claimed(region))
    assert shown(region, backup).proof_status is VerificationStatus.PASSED


def test_a_proof_that_waits_for_a_host_that_went_away(region: Region, backup: Backup) -> None:
    """Nobody has claimed it, and the host has been silent for a lease's time: unknown."""
    verify(region, backup, RESTORE)
    region.clock.advance(region.deployment.settings.lease_s + 1)
    outcomes.reap(region.deployment)
    assert shown(region, backup).proof_status is VerificationStatus.UNKNOWN


def test_an_unknown_proof_is_tried_again(region: Region, backup: Backup) -> None:
    """Not before the interval; then as a new task, at the same level; a result ends it."""
    interval_s = region.deployment.settings.sweep_interval_s
    verify(region, backup, RESTORE)
    report(region, claimed(region), status=VerificationStatus.UNKNOWN, reason="silent", at=rfc3339(region.clock.now_us))
    retry_verifications(region.deployment)
    assert region.claim() is None
    region.clock.advance(interval_s + 2)
    retry_verifications(region.deployment)
    assert shown(region, backup).proving is None, "the host has been silent for too long by now"
    region.heartbeat()
    retry_verifications(region.deployment)
    report(region, claimed(region), status=VerificationStatus.FAILED, reason="differs", at=rfc3339(region.clock.now_us))
    failed = shown(region, backup)
    assert (failed.proof_status, failed.proof_reason) == (VerificationStatus.FAILED, "differs")
    region.clock.advance(10 * interval_s)
    region.heartbeat()
    retry_verifications(region.deployment)
    assert region.claim() is None


@pytest.mark.parametrize(
    ("last_s", "now_s", "due"),
    [(0, 299, False), (0, 300, True), (1000, 1999, False), (1000, 2000, True), (86_000, 86_401, False)],
)
def test_when_a_proof_is_due(last_s: int, now_s: int, due: bool) -> None:  # noqa: FBT001 - one of a table
    """Five minutes after the first try, later after as long as it has been tried; no longer than a day."""
    asked = 1_700_000_000 * SECOND_US
    assert verification_is_due(asked, asked + last_s * SECOND_US, asked + now_s * SECOND_US, 300 * SECOND_US) is due


@pytest.mark.parametrize("level", [None, OBJECTS, RESTORE])
def test_a_new_backup_brings_its_proof(region: Region, level: VerificationLevel | None) -> None:
    """The setting travels with the task, and what the host says of it is recorded with COMPLETED."""
    settings = region.deployment.settings.model_copy(update={"verify_after_backup": level.value if level else "none"})
    region.deployment = replace(region.deployment, settings=settings)
    backup = request_backup(region.deployment, ACCOUNT, a_backup(region.active_instance().id))
    task = claimed(region)
    assert task.backup is not None
    assert task.backup.verify is level
    result = a_result(task).model_copy(update={"proof": a_verification(level=level) if level else None})
    message = Report(session=region.session, attempt=task.attempt, ok=True, backup=result)
    outcomes.report(region.deployment, region.host_id, task.id, message)
    now = shown(region, backup)
    assert (now.status, now.proof_level, now.proof_status) == (
        BackupStatus.COMPLETED,
        level,
        VerificationStatus.PASSED if level else None,
    )
