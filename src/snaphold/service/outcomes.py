"""Outcomes of hosts' tasks: a report, a cancellation or the silence of a host, and what each does to the catalog.

The outcome of a task is one transaction that moves every row that the task is about, and enqueues what comes next.
``OUTCOMES`` has the success and the failure of each kind of task; ``snaphold.task_kinds`` says what silence means.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from snaphold.catalog import backups, host_calls, hosts, instances, tasks
from snaphold.catalog import copies as copy_rows
from snaphold.catalog.database import Transaction
from snaphold.errors import Superseded
from snaphold.facts import completed_values
from snaphold.model import (
    DAY_US,
    Attempt,
    BackupStatus,
    Instance,
    InstanceStatus,
    VerificationLevel,
    VerificationStatus,
    rfc3339,
)
from snaphold.protocol import BackupResult, InstanceResult, Report, TaskKind, VerificationResult
from snaphold.reasons import screened_from_host
from snaphold.service import copies
from snaphold.service.deployment import Deployment
from snaphold.service.placement import free_address, hostname_of, is_loopback, is_permitted_address
from snaphold.steps import Step, reached
from snaphold.task_kinds import MAKING_BACKUPS, MAKING_INSTANCES, TASK_KINDS, OnSilence, Payload

_log = structlog.get_logger()

_TASKS_KEPT_US: Final = 7 * DAY_US


def claimed_backup(
    deployment: Deployment, host_id: str, task_id: str, message: Report
) -> tuple[str, str, BackupResult] | None:
    """The backup that a report claims to be complete (account, id, result).

    None: it claims none, or the report is not of the current attempt at making one.
    """
    if not message.ok or message.backup is None:
        return None
    with deployment.catalog.reading() as tx:
        attempt = tasks.current(tx, host_id, task_id, message.session, message.attempt)
    if attempt is None or attempt.backup_id is None or attempt.kind not in MAKING_BACKUPS:
        return None
    return attempt.account, attempt.backup_id, message.backup


def report(
    deployment: Deployment, host_id: str, task_id: str, message: Report, *, unfounded: str | None = None
) -> None:
    """Record the end of an attempt.

    A report may arrive twice, where the first answer was lost, and after a rebuild of the catalog, which has found the
    backup by its manifest: then nothing is left to do.

    Args:
        unfounded: why the claims of the report are false, as the caller has found; the attempt has failed then.

    Raises:
        Superseded: the attempt was abandoned before, and nothing is written; or the claims are false.
    """
    message = _screened(message)
    with deployment.catalog.writing() as tx:
        if tasks.has_reported(tx, host_id, task_id, message.session, message.attempt):
            return
        if not tasks.is_known(tx, task_id) and _is_recorded(tx, message):
            return
        attempt = current_attempt(tx, host_id, task_id, message.session, message.attempt)
        if message.ok and unfounded is None:
            unfounded = _contradiction(tx, deployment, attempt, message)
        tasks.end(tx, attempt, reported=unfounded is None)
        if unfounded is not None:
            _fail(tx, deployment, attempt, unfounded)
        elif message.ok:
            _outcome_of(attempt).succeed(tx, deployment, attempt, message)
        else:
            _fail(tx, deployment, attempt, message.reason or "It failed without a reason.")
    reached(Step.CONTROL_REPORTED)
    _log.info(
        "task.ended",
        task=task_id,
        kind=attempt.kind,
        attempt=attempt.number,
        instance=attempt.instance_id,
        backup=attempt.backup_id,
        ok=message.ok and unfounded is None,
        reason=message.reason if unfounded is None else unfounded,
    )
    if unfounded is not None:
        raise Superseded(unfounded)


def current_attempt(tx: Transaction, host_id: str, task_id: str, session: str, number: int) -> Attempt:
    """The attempt of this number, if it may still report. Raises ``Superseded``."""
    attempt = tasks.current(tx, host_id, task_id, session, number)
    if attempt is None:
        raise Superseded(f"Attempt {number} at task {task_id} was given up.")
    return attempt


def reap(deployment: Deployment) -> int:
    """Handle the silence of every host that has not renewed its leases; the number of attempts concerned.

    A transaction handles at most a hundred of them, so that other writers do not wait for long.
    """
    count = 0
    while True:
        with deployment.catalog.reading() as tx:
            overdue_us = tx.now_us - deployment.lease_us
            if not tasks.silent(tx, deployment.lease_us) and not host_calls.any_overdue(tx, overdue_us):
                return count
        with deployment.catalog.writing() as tx:
            attempts = tasks.silent(tx, deployment.lease_us)
            for attempt in attempts:
                handle_silence(tx, deployment, attempt, "Its host has not been heard from for too long.")
            host_calls.forget_overdue(tx, tx.now_us - deployment.lease_us)
        count += len(attempts)


def forget_ended_tasks(deployment: Deployment) -> None:
    """Delete the tasks that ended a week ago: their hosts have long stopped to report on them."""
    with deployment.catalog.writing() as tx:
        tasks.forget_ended(tx, tx.now_us - _TASKS_KEPT_US)


def handle_silence(tx: Transaction, deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """Abandon an attempt whose host is silent, or put its task back until the host returns (``OnSilence``)."""
    rules = TASK_KINDS[TaskKind(attempt.kind)]
    _log.warning(
        "task.host_silent",
        task=attempt.task_id,
        kind=attempt.kind,
        attempt=attempt.number,
        instance=attempt.instance_id,
        backup=attempt.backup_id,
        then=rules.on_silence.value,
        reason=reason,
    )
    if rules.on_silence is OnSilence.REQUEUE:
        tasks.put_back(tx, attempt)
    else:
        abandon(tx, deployment, attempt, reason)


def abandon(tx: Transaction, deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """End a task without a report: the attempt is superseded, and the task has failed."""
    tasks.end(tx, attempt, reported=False)
    _fail(tx, deployment, attempt, reason)


def _fail(tx: Transaction, deployment: Deployment, attempt: Attempt, reason: str) -> None:
    _outcome_of(attempt).fail(tx, deployment, attempt, reason)


def _complete_backup(tx: Transaction, deployment: Deployment, attempt: Attempt, message: Report) -> None:
    """COMPLETED; its instance is free, and its planned copies begin."""
    backup_id, result = attempt.backup_id, message.backup
    if backup_id is None or result is None:
        raise _incomplete(attempt)
    progress: dict[str, Any] = {"done_bytes": None, "expected_bytes": None, "bytes_per_s": None, "step": None}
    values = progress | completed_values(result)
    if not backups.move(tx, backup_id, [BackupStatus.BUILDING], BackupStatus.COMPLETED, **values):
        raise Superseded(f"Backup {backup_id} is not BUILDING any more.")
    if attempt.instance_id is not None:
        instances.move(tx, attempt.instance_id, [InstanceStatus.BACKUP], InstanceStatus.ACTIVE)
        instance = instances.get(tx, attempt.instance_id)
        if instance is not None and result.incarnation not in {instance.incarnation, instance.ended_incarnation}:
            instances.note_incarnation(tx, instance, result.incarnation, 0)  # the next heartbeat brings its LSN
    if attempt.kind == TaskKind.BACKUP:
        copies.begin_planned(tx, deployment, backup_id)


def _fail_backup(tx: Transaction, deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """FAILED; its objects are swept, its instance is free, and its planned copies have failed too."""
    backup_id = _required(attempt.backup_id, attempt)
    origins = [BackupStatus.NEW, BackupStatus.BUILDING]
    backups.move(tx, backup_id, origins, BackupStatus.FAILED, reason=reason, step=None)
    copy_rows.fail_all(tx, backup_id, "The backup itself has failed.")
    if attempt.instance_id is not None:
        instances.move(tx, attempt.instance_id, [InstanceStatus.BACKUP], InstanceStatus.ACTIVE)
    deployment.queue.enqueue(tx, "sweep_backup", backup_id)


def _activate_instance(tx: Transaction, deployment: Deployment, attempt: Attempt, message: Report) -> None:
    """ACTIVE. If its host found the address taken, the instance has another address, and another name with it."""
    instance_id, result = attempt.instance_id, message.instance
    if instance_id is None or result is None:
        raise _incomplete(attempt)
    instance = instances.get(tx, instance_id)
    moved: dict[str, Any] = {}
    if instance is not None and instance.reserved_address not in {None, result.address}:
        _log.warning(
            "instance.address_taken", instance=instance_id, address=instance.reserved_address, now=result.address
        )
        _move_reservations(tx, deployment, attempt.host_id, instance_id, result.address)
        moved = {"reserved_address": result.address}
        if instance.hostname == instance.reserved_address:
            moved["hostname"] = result.address
    instances.move(
        tx,
        instance_id,
        [InstanceStatus.BUILD],
        InstanceStatus.ACTIVE,
        address=result.address,
        port=result.port,
        used_bytes=result.used_bytes,
        running=True,
        **moved,
        **instances.NO_PROGRESS,
    )


def _move_reservations(tx: Transaction, deployment: Deployment, host_id: str, instance_id: str, address: str) -> None:
    """Reserve other addresses for the instances that were to get this one and have never run.

    Their host chose it for another instance by its own records, since it does not know the reservations of the catalog.
    """
    for other in _holders(tx, host_id, instance_id, address):
        host = hosts.get(tx, other.host_id)
        free = None if host is None else free_address(tx, deployment.settings, host, other.id)
        name = None if free is None else hostname_of(deployment.settings, other.id, free)
        instances.reserve(tx, other.id, free, name)
        task = tasks.open_of_instance(tx, other.id)
        if task is not None and (spec := Payload.model_validate(task.payload).instance) is not None:
            moved = Payload(instance=spec.model_copy(update={"address": free}))
            tasks.change_payload(tx, task, moved.model_dump(mode="json", include={"instance"}))
        _log.info("instance.reservation_moved", instance=other.id, address=address, now=free)


def _holders(tx: Transaction, host_id: str, instance_id: str, address: str) -> list[Instance]:
    """The other instances that have this address, or are to have it: of the host, and of all unless it is loopback."""
    found = instances.with_address(tx, address, but=instance_id)
    return [other for other in found if other.host_id == host_id or not is_loopback(address)]


def _fail_new_instance(tx: Transaction, _deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """ERROR, with the reason."""
    instance_id = _required(attempt.instance_id, attempt)
    values = {"reason": reason, **instances.NO_PROGRESS}
    instances.move(tx, instance_id, [InstanceStatus.BUILD], InstanceStatus.ERROR, **values)


def _end_start(tx: Transaction, _deployment: Deployment, attempt: Attempt, _message: Report) -> None:
    """ACTIVE."""
    instance_id = _required(attempt.instance_id, attempt)
    instances.move(tx, instance_id, [InstanceStatus.REBOOT], InstanceStatus.ACTIVE, running=True, reason=None)


def _end_resize(tx: Transaction, _deployment: Deployment, attempt: Attempt, _message: Report) -> None:
    """ACTIVE, with the new flavor."""
    instance_id = _required(attempt.instance_id, attempt)
    flavor_id = Payload.model_validate(attempt.payload).flavor_id
    resized = {"flavor_id": flavor_id, "running": True}
    instances.move(tx, instance_id, [InstanceStatus.RESIZE], InstanceStatus.ACTIVE, **resized)


def _end_stop(tx: Transaction, _deployment: Deployment, attempt: Attempt, _message: Report) -> None:
    """SHUTDOWN since the request; its server has stopped."""
    instance_id = _required(attempt.instance_id, attempt)
    instances.note_state(tx, attempt.host_id, instance_id, running=False, used_bytes=None)


def _end_delete(tx: Transaction, _deployment: Deployment, attempt: Attempt, _message: Report) -> None:
    """The instance no longer exists."""
    instances.mark_deleted(tx, _required(attempt.instance_id, attempt))


def _fail_lifecycle(tx: Transaction, _deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """ERROR, with the reason; an instance that was to be deleted no longer is."""
    instance_id = _required(attempt.instance_id, attempt)
    origins = [InstanceStatus.REBOOT, InstanceStatus.RESIZE, InstanceStatus.SHUTDOWN]
    instances.move(tx, instance_id, origins, InstanceStatus.ERROR, reason=reason, deleting=False)


def _end_verification(tx: Transaction, _deployment: Deployment, attempt: Attempt, message: Report) -> None:
    """The verification has passed or failed, and the backup is no longer in use."""
    if attempt.backup_id is None or message.proof is None:
        raise _incomplete(attempt)
    backups.end_verification(tx, attempt.backup_id, message.proof)


def _fail_verification(tx: Transaction, _deployment: Deployment, attempt: Attempt, reason: str) -> None:
    """The result is unknown; the worker asks for the verification again."""
    unknown = VerificationResult(
        status=VerificationStatus.UNKNOWN,
        level=VerificationLevel.RESTORE,
        at=rfc3339(tx.now_us),
        seconds=(tx.now_us - attempt.created_us) / 1e6,
        reason=reason,
    )
    backups.end_verification(tx, _required(attempt.backup_id, attempt), unknown)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the end of a task does to the catalog. ``succeed`` raises ``Superseded`` if the report lacks a result."""

    succeed: Callable[[Transaction, Deployment, Attempt, Report], None]
    fail: Callable[[Transaction, Deployment, Attempt, str], None]


OUTCOMES: Final[Mapping[TaskKind, Outcome]] = {
    TaskKind.CREATE: Outcome(succeed=_activate_instance, fail=_fail_new_instance),
    TaskKind.RESTORE: Outcome(succeed=_activate_instance, fail=_fail_new_instance),
    TaskKind.BACKUP: Outcome(succeed=_complete_backup, fail=_fail_backup),
    TaskKind.CONSOLIDATE: Outcome(succeed=_complete_backup, fail=_fail_backup),
    TaskKind.VERIFY: Outcome(succeed=_end_verification, fail=_fail_verification),
    TaskKind.RESTART: Outcome(succeed=_end_start, fail=_fail_lifecycle),
    TaskKind.START: Outcome(succeed=_end_start, fail=_fail_lifecycle),
    TaskKind.STOP: Outcome(succeed=_end_stop, fail=_fail_lifecycle),
    TaskKind.RESIZE: Outcome(succeed=_end_resize, fail=_fail_lifecycle),
    TaskKind.DELETE: Outcome(succeed=_end_delete, fail=_fail_lifecycle),
}


def _outcome_of(attempt: Attempt) -> Outcome:
    return OUTCOMES[TaskKind(attempt.kind)]


def _required(row_id: str | None, attempt: Attempt) -> str:
    if row_id is None:
        raise _incomplete(attempt)
    return row_id


def _incomplete(attempt: Attempt) -> Superseded:
    return Superseded(f"The report on task {attempt.task_id} lacks its result.")


def _screened(message: Report) -> Report:
    """The same report with reasons that are fit for tenants: the host may run an older release, or be compromised."""
    reason = None if message.reason is None else screened_from_host(message.reason)
    proof = message.proof
    if proof is not None and proof.reason is not None:
        proof = proof.model_copy(update={"reason": screened_from_host(proof.reason)})
    return message.model_copy(update={"reason": reason, "proof": proof})


def _is_recorded(tx: Transaction, message: Report) -> bool:
    """Whether the catalog has the very backup that is reported, so that the host must not remove it as superseded."""
    if message.backup is None:
        return False
    backup = backups.get(tx, message.backup.object_name.partition(".")[0])
    return (
        backup is not None
        and backup.status is BackupStatus.COMPLETED
        and backup.manifest_sha256 == message.backup.manifest_sha256
    )


def _contradiction(tx: Transaction, deployment: Deployment, attempt: Attempt, message: Report) -> str | None:
    """Which claim of a report cannot be true, or None.

    1. A backup's data object carries the id of the backup.
    2. The backup was taken from the parent that was asked for; from none only if the request named none.
    3. An instance's address is in one of its host's permitted networks, and no other instance has it; its port is the
       host's.
    """
    if message.instance is not None and attempt.kind in MAKING_INSTANCES and attempt.instance_id is not None:
        return _wrong_address(tx, deployment, attempt.host_id, attempt.instance_id, message.instance)
    result, spec = message.backup, Payload.model_validate(attempt.payload).backup
    if result is None or spec is None:
        return None
    if result.object_name.partition(".")[0] != attempt.backup_id:
        return f"The object {result.object_name} is not backup {attempt.backup_id}'s."
    if result.parent_id != spec.parent_id and (result.parent_id is not None or spec.parent_named):
        return "The backup was not taken from the parent that was asked for."
    return None


def _wrong_address(
    tx: Transaction, deployment: Deployment, host_id: str, instance_id: str, result: InstanceResult
) -> str | None:
    host = hosts.get(tx, host_id)
    holders = [one for one in _holders(tx, host_id, instance_id, result.address) if one.address == result.address]
    if host is None or holders:
        return f"Its host told the address {result.address}, which another instance has."
    if not is_permitted_address(deployment.settings, host.networks, result.address):
        return f"Its host told the address {result.address}, which is in none of its networks."
    if host.instance_port is not None and result.port != host.instance_port:
        return f"Its host told port {result.port}, not {host.instance_port}."
    return None
