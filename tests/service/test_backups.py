import uuid

import pytest
import sqlalchemy as sa

from snaphold.catalog import backups
from snaphold.errors import BadRequest, NotFound, Superseded, Unprocessable
from snaphold.model import BackupStatus, InstanceStatus, rfc3339
from snaphold.protocol import Claim, Heartbeat, InstanceState, Progress
from snaphold.service import outcomes, sessions
from snaphold.service.backups import (
    delete_backup,
    list_backups,
    list_instance_backups,
    request_backup,
    show_backup,
)
from snaphold.service.deployment import Deployment
from snaphold.service.instances import create_instance, delete_instance, restart_instance, show_instance
from snaphold.service.requests import PageRequest
from tests.support.region import ACCOUNT, Region, a_backup, an_instance

ALL = PageRequest(limit=100, marker=None)


def test_a_requested_backup_makes_its_instance_busy(region: Region) -> None:
    """From the request to the report the instance is BACKUP, and whatever needs it free is refused with its status."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    assert (backup.status, backup.size_bytes, backup.object_name) == (BackupStatus.NEW, None, None)
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.BACKUP
    refusal = rf"Instance {instance.id} is not currently available .*\(instance status was BACKUP\)\."
    for request in (
        lambda: request_backup(region.deployment, ACCOUNT, a_backup(instance.id)),
        lambda: restart_instance(region.deployment, ACCOUNT, instance.id),
        lambda: delete_instance(region.deployment, ACCOUNT, instance.id),
    ):
        with pytest.raises(Unprocessable, match=refusal):
            request()


def test_a_backup_moves_new_building_completed(region: Region) -> None:
    """NEW until its host claims it, BUILDING while it is taken, COMPLETED with what was reported; then all is free."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    assert show_backup(region.deployment, ACCOUNT, backup.id).status is BackupStatus.BUILDING
    message = Progress(session=region.session, attempt=task.attempt, step="stream", size_bytes=7, done_bytes=3)
    sessions.progress(region.deployment, region.host_id, task.id, message)
    assert show_backup(region.deployment, ACCOUNT, backup.id).size_bytes == 7
    region.report(task)
    done = show_backup(region.deployment, ACCOUNT, backup.id)
    assert (done.status, done.object_name, done.step) == (BackupStatus.COMPLETED, f"{backup.id}.xbstream.gz", None)
    assert rfc3339(done.updated_us) == "2026-01-02T03:04:05Z"
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.ACTIVE


def test_a_failed_backup_says_why_and_is_swept(region: Region) -> None:
    """FAILED carries the reason, frees the instance, and enqueues the sweep in the same transaction."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    region.report(task, ok=False)
    failed = show_backup(region.deployment, ACCOUNT, backup.id)
    assert (failed.status, failed.reason) == (BackupStatus.FAILED, "it was told to fail")
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.ACTIVE
    assert [name for name, _ in region.enqueued()] == ["sweep_backup"]


def test_an_attempt_that_was_given_up_may_not_report(region: Region) -> None:
    """After the lease has run out the catalog belongs to the reaper: a late report changes nothing."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    region.clock.advance(region.deployment.settings.lease_s + 1)
    assert outcomes.reap(region.deployment) == 1
    with pytest.raises(Superseded):
        region.report(task)
    with pytest.raises(Superseded):
        sessions.progress(
            region.deployment, region.host_id, task.id, Progress(session=region.session, attempt=task.attempt)
        )
    assert show_backup(region.deployment, ACCOUNT, backup.id).status is BackupStatus.FAILED


def test_a_report_whose_answer_was_lost_may_come_again(region: Region) -> None:
    """The agent asks again when no answer came: a 409 now would make it remove a backup that the catalog has."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    for _ in range(2):
        region.report(task)
    assert show_backup(region.deployment, ACCOUNT, backup.id).status is BackupStatus.COMPLETED
    delete_instance(region.deployment, ACCOUNT, instance.id)
    region.report(task)
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.SHUTDOWN


def test_a_lease_that_is_renewed_is_kept(region: Region) -> None:
    """Progress within the lease's time keeps the attempt alive for as long as it takes."""
    instance = region.active_instance()
    request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task = region.claim()
    assert task is not None
    for _ in range(5):
        region.clock.advance(region.deployment.settings.renew_s)
        sessions.progress(
            region.deployment, region.host_id, task.id, Progress(session=region.session, attempt=task.attempt)
        )
        assert outcomes.reap(region.deployment) == 0


def test_a_waiting_backup_of_a_host_that_never_comes_fails_within_the_lease(region: Region) -> None:
    """Nobody has claimed it, and the host has been silent for a lease's time: FAILED, and the lock is freed."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    region.clock.advance(region.deployment.settings.lease_s + 1)
    outcomes.reap(region.deployment)
    assert show_backup(region.deployment, ACCOUNT, backup.id).status is BackupStatus.FAILED
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.ACTIVE


def test_a_new_agent_process_ends_what_the_old_one_had(region: Region) -> None:
    """Hello with another session fails the old session's backup at once, without waiting for the lease."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    task, old = region.claim(), region.session
    assert task is not None
    region.hello()
    assert show_backup(region.deployment, ACCOUNT, backup.id).status is BackupStatus.FAILED
    with pytest.raises(Superseded):
        region.report(task, session=old)


def test_a_silent_restore_is_an_error_and_a_silent_delete_waits(region: Region) -> None:
    """Silence ends a restore in ERROR with a reason; a delete is taken up by the host when it is back."""
    instance = region.active_instance()
    backup = region.completed_backup(instance)
    restored = create_instance(region.deployment, ACCOUNT, an_instance(backup_ref=backup.id))
    assert region.claim() is not None
    delete_instance(region.deployment, ACCOUNT, instance.id)
    first = region.claim()
    assert first is not None
    region.clock.advance(region.deployment.settings.lease_s + 1)
    outcomes.reap(region.deployment)
    failed = show_instance(region.deployment, ACCOUNT, restored.id)
    assert failed.status is InstanceStatus.ERROR
    assert failed.reason is not None
    region.heartbeat()
    again = region.claim()
    assert again is not None
    assert (again.id, again.attempt) == (first.id, first.attempt + 1)
    region.report(again)
    with pytest.raises(NotFound):
        show_instance(region.deployment, ACCOUNT, instance.id)


def test_one_running_backup_an_account_by_default(region: Region) -> None:
    """A second instance's backup is refused while the account is at its limit (contract, section 1)."""
    first, second = region.active_instance(), region.active_instance()
    limited = _with_limit(region, 1)
    request_backup(limited, ACCOUNT, a_backup(first.id))
    with pytest.raises(Unprocessable, match="limit"):
        request_backup(limited, ACCOUNT, a_backup(second.id))


def test_the_database_itself_refuses_a_second_running_backup(region: Region) -> None:
    """The partial unique index holds even where the code would not look."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    with region.deployment.catalog.writing() as tx:
        copy = {**{f: getattr(backup, f) for f in backup.__dataclass_fields__}, "id": str(uuid.uuid4())}
        assert backups.insert(tx, type(backup)(**copy)) is False


def test_a_refused_request_leaves_nothing(region: Region) -> None:
    """Row, task and busy mark are one transaction: a refusal leaves no row and no work."""
    instance = region.active_instance()
    request = a_backup(instance.id)
    for parent, refusal in ((str(uuid.uuid4()), NotFound),):
        with pytest.raises(refusal):
            request_backup(region.deployment, ACCOUNT, type(request)(**{**request.__dict__, "parent_id": parent}))
    with pytest.raises(BadRequest):
        request_backup(region.deployment, ACCOUNT, type(request)(**{**request.__dict__, "copy_to": ["LON"]}))
    with pytest.raises(BadRequest):
        request_backup(region.deployment, ACCOUNT, type(request)(**{**request.__dict__, "copy_to": ["IAD"]}))
    assert list_backups(region.deployment, ACCOUNT, ALL).backups == []
    assert region.claim() is None
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.ACTIVE


def test_a_delete_is_marked_and_enqueued_in_one_transaction(region: Region) -> None:
    """A deleted backup still answers until its objects are gone; a second DELETE is no error and no second job."""
    backup = region.completed_backup(region.active_instance())
    delete_backup(region.deployment, ACCOUNT, backup.id)
    delete_backup(region.deployment, ACCOUNT, backup.id)
    shown = show_backup(region.deployment, ACCOUNT, backup.id)
    assert (shown.status, shown.deleting) == (BackupStatus.COMPLETED, True)
    assert [name for name, _ in region.enqueued()] == ["delete_backup"]


def test_a_job_whose_transaction_fails_is_never_run(region: Region) -> None:
    """Promise 1 the other way round: what was rolled back left no work."""

    def interrupted() -> None:
        with region.deployment.catalog.writing() as tx:
            region.deployment.queue.enqueue(tx, "delete_backup", "x")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        interrupted()
    assert region.enqueued() == []


def test_a_running_backup_cannot_be_deleted(region: Region) -> None:
    """NEW and BUILDING backups answer 422 with the reason."""
    instance = region.active_instance()
    backup = request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    with pytest.raises(Unprocessable, match=rf"Backup {backup.id} cannot be deleted because it is running\."):
        delete_backup(region.deployment, ACCOUNT, backup.id)


def test_a_backup_that_is_being_restored_cannot_be_deleted(region: Region) -> None:
    """In use until the restore has ended, deletable after it."""
    backup = region.completed_backup(region.active_instance())
    create_instance(region.deployment, ACCOUNT, an_instance(backup_ref=backup.id))
    with pytest.raises(Unprocessable, match=rf"Backup {backup.id} is in use\."):
        delete_backup(region.deployment, ACCOUNT, backup.id)
    task = region.claim()
    assert task is not None
    region.report(task)
    delete_backup(region.deployment, ACCOUNT, backup.id)


def test_pages_neither_repeat_nor_skip_while_rows_come_and_go(region: Region) -> None:
    """An id marker keeps its place when newer rows appear and when its own row is deleted meanwhile."""
    instance = region.active_instance()
    made = [region.completed_backup(instance, f"b{n}").id for n in range(5)]
    first = list_backups(region.deployment, ACCOUNT, PageRequest(limit=2, marker=None))
    assert [b.id for b in first.backups] == [made[4], made[3]]
    region.completed_backup(instance, "newer")
    with region.deployment.catalog.writing() as tx:
        backups.mark_deleted(tx, made[3])
    second = list_backups(region.deployment, ACCOUNT, PageRequest(limit=2, marker=first.next_marker))
    third = list_backups(region.deployment, ACCOUNT, PageRequest(limit=2, marker=second.next_marker))
    assert [b.id for b in (*second.backups, *third.backups)] == [made[2], made[1], made[0]]
    assert third.next_marker is None
    assert list_backups(region.deployment, ACCOUNT, PageRequest(limit=2, marker="3")).backups[0].id == made[1]
    with pytest.raises(BadRequest):
        list_backups(region.deployment, ACCOUNT, PageRequest(limit=2, marker=str(uuid.uuid4())))


def test_filters_know_the_contract_s_datastores(region: Region) -> None:
    """mysql, percona and mariadb are always known, in any case; another is 404."""
    region.completed_backup(region.active_instance())
    counts = {
        name: len(list_backups(region.deployment, ACCOUNT, ALL, datastore=name).backups)
        for name in ("MySQL", "percona", "MariaDB")
    }
    assert counts == {"MySQL": 0, "percona": 0, "MariaDB": 1}
    with pytest.raises(NotFound, match=r"Datastore 'nope' cannot be found\."):
        list_backups(region.deployment, ACCOUNT, ALL, datastore="nope")


def test_backups_outlive_their_instance(region: Region) -> None:
    """The list of a deleted instance works; one that never was is 404."""
    instance = region.active_instance()
    backup = region.completed_backup(instance)
    delete_instance(region.deployment, ACCOUNT, instance.id)
    task = region.claim()
    assert task is not None
    region.report(task)
    assert [b.id for b in list_instance_backups(region.deployment, ACCOUNT, instance.id, ALL).backups] == [backup.id]
    with pytest.raises(NotFound):
        list_instance_backups(region.deployment, ACCOUNT, str(uuid.uuid4()), ALL)


def test_accounts_are_walls(region: Region) -> None:
    """Another account's ids are as unknown as ids that never were, with the same words."""
    instance = region.active_instance()
    backup = region.completed_backup(instance)
    for request in (
        lambda: show_backup(region.deployment, "9999", backup.id),
        lambda: delete_backup(region.deployment, "9999", backup.id),
        lambda: request_backup(region.deployment, "9999", a_backup(instance.id)),
        lambda: show_instance(region.deployment, "9999", instance.id),
        lambda: create_instance(region.deployment, "9999", an_instance(backup_ref=backup.id)),
        lambda: list_instance_backups(region.deployment, "9999", instance.id, ALL),
    ):
        with pytest.raises(NotFound):
            request()
    assert list_backups(region.deployment, "9999", ALL).backups == []


def test_no_password_reaches_the_catalog_after_its_task(region: Region) -> None:
    """The payload of a task, hashes included, is dropped when the task ends."""
    region.active_instance()
    with region.deployment.catalog.reading() as tx:
        payloads = tx.connection.execute(sa.text("SELECT payload FROM tasks")).scalars().all()
    assert payloads == ["{}"]


def _with_limit(region: Region, limit: int) -> Deployment:
    fields = {name: getattr(region.deployment, name) for name in region.deployment.__dataclass_fields__}
    settings = region.deployment.settings.model_copy(update={"max_running_backups_per_account": limit})
    return Deployment(**{**fields, "settings": settings})


def test_a_failed_restart_does_not_lose_the_data(region: Region) -> None:
    """An instance in ERROR that has been ACTIVE is still wanted running, and is ACTIVE again once it runs."""
    instance = region.active_instance()
    restart_instance(region.deployment, ACCOUNT, instance.id)
    task = region.claim()
    assert task is not None
    region.report(task, ok=False)
    assert show_instance(region.deployment, ACCOUNT, instance.id).status is InstanceStatus.ERROR
    down, up = (InstanceState(id=instance.id, running=running) for running in (False, True))
    for state, status in ((down, InstanceStatus.ERROR), (up, InstanceStatus.ACTIVE)):
        beat = Heartbeat(session=region.session, instances=[state])
        assert sessions.heartbeat(region.deployment, region.host_id, beat).instances == {instance.id: "running"}
        assert show_instance(region.deployment, ACCOUNT, instance.id).status is status


def test_a_waiting_delete_is_not_given_up_round_after_round(region: Region) -> None:
    """A delete that nobody has claimed just waits for its host: no round of the reaper writes anything about it."""
    instance = region.active_instance()
    delete_instance(region.deployment, ACCOUNT, instance.id)
    region.clock.advance(region.deployment.settings.lease_s * 10)
    assert [outcomes.reap(region.deployment) for _ in range(3)] == [0, 0, 0]


def test_a_stale_session_gets_no_work(region: Region) -> None:
    """After another process has said hello, the earlier one is told to say hello again instead of being given work."""
    instance = region.active_instance()
    request_backup(region.deployment, ACCOUNT, a_backup(instance.id))
    old = region.session
    region.hello()
    with pytest.raises(Superseded):
        sessions.claim(region.deployment, region.host_id, Claim(session=old, wait_s=0))
