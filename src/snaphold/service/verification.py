"""Verifications and repairs of backups: requested, begun, retried (contract, section 2, "Verification").

A verification never changes a backup's status and never removes anything; while it is under way the backup is in use.
"""

import structlog

from snaphold.catalog import backups, hosts
from snaphold.catalog.database import Transaction
from snaphold.errors import Unavailable, Unprocessable, in_full
from snaphold.model import Backup, Rate, VerificationLevel, verification_is_due
from snaphold.protocol import TaskKind
from snaphold.service import limits
from snaphold.service.chains import chain_of
from snaphold.service.copies import counterparts_of
from snaphold.service.deployment import Deployment
from snaphold.service.find import find_usable_backup
from snaphold.service.host_tasks import give_task
from snaphold.service.placement import choose_host_of
from snaphold.steps import Step, reached
from snaphold.task_kinds import Payload

_log = structlog.get_logger()


def request_verification(deployment: Deployment, account: str, backup_id: str, level: VerificationLevel) -> None:
    """Request a verification: the backup is in use, and the worker has a job or a host a task.

    Raises:
        NotFound: no such backup.
        Unprocessable: it is not COMPLETED, is being deleted, or is being verified already.
        Unavailable: no host that could restore it answers.
    """
    with deployment.catalog.writing() as tx:
        backup = _verifiable(tx, account, backup_id)
        host_id = _begin(tx, deployment, backup, level, tx.now_us)
        limits.count(tx, deployment, account, Rate.BACKUP_ACTIONS)
    reached(Step.CONTROL_ASKED)
    if host_id is not None:
        deployment.wakeups.notify(host_id)
    _log.info("backup.verification_requested", backup=backup_id, account=account, proof=level.value)


def request_repair(deployment: Deployment, account: str, backup_id: str) -> None:
    """Request that damaged objects of a backup are replaced from another region, and the backup verified again.

    The other regions are asked first. Objects that are damaged there too stay as they are; the verification then fails.

    Raises:
        NotFound: no such backup.
        Unprocessable: it is not COMPLETED, is being deleted, or is being verified; no other region has it.
        Unavailable: no region that answers has it, and one that may have it does not answer.
    """
    with deployment.catalog.reading() as tx:
        backup = _verifiable(tx, account, backup_id)
    if not counterparts_of(deployment, backup):
        raise Unprocessable(
            f"Backup {backup_id} cannot be repaired: neither its source nor a copy is in another region."
        )
    with deployment.catalog.writing() as tx:
        backup = _verifiable(tx, account, backup_id)
        _begin(tx, deployment, backup, VerificationLevel.OBJECTS, tx.now_us, mending=True)
        limits.count(tx, deployment, account, Rate.BACKUP_ACTIONS)
    reached(Step.CONTROL_ASKED)
    _log.info("backup.repair_requested", backup=backup_id, account=account)


def verifiable_backups(deployment: Deployment, account: str | None) -> list[Backup]:
    """Every COMPLETED backup (of one account), the one with the oldest verification first."""
    with deployment.catalog.reading() as tx:
        found = backups.completed(tx, account)
    return sorted(found, key=lambda backup: backup.proof_at_us or 0)


def retry_verifications(deployment: Deployment) -> None:
    """Retry the verifications that ended unknown and are due (``model.verification_is_due``)."""
    interval_us = int(deployment.settings.sweep_interval_s * 1_000_000)
    with deployment.catalog.reading() as tx:
        due = [
            backup
            for backup in backups.unknown_verifications(tx)
            if verification_is_due(backup.proof_asked_us or 0, backup.proof_tried_us or 0, tx.now_us, interval_us)
        ]
    for backup in due:
        try:
            with deployment.catalog.writing() as tx:
                level = backup.proof_level or VerificationLevel.OBJECTS
                host_id = _begin(tx, deployment, backup, level, backup.proof_asked_us, mending=backup.mending)
        except Unavailable as error:
            _log.info("backup.verification_delayed", backup=backup.id, reason=in_full(error))
            continue
        if host_id is not None:
            deployment.wakeups.notify(host_id)
        _log.info("backup.verification_retried", backup=backup.id)


def resume_verifications(deployment: Deployment) -> None:
    """Enqueue again the verifications that an earlier worker had begun. Call it when a worker starts."""
    with deployment.catalog.writing() as tx:
        for backup_id in backups.being_verified(tx, VerificationLevel.OBJECTS):
            deployment.queue.enqueue(tx, "prove_objects", backup_id)


def _verifiable(tx: Transaction, account: str, backup_id: str) -> Backup:
    backup = find_usable_backup(tx, account, backup_id)
    if backup.proving is not None:
        raise Unprocessable(f"Backup {backup_id} is being verified already.")
    return backup


def _begin(
    tx: Transaction, deployment: Deployment, backup: Backup, level: VerificationLevel, asked_us: int | None, *,
    mending: bool = False,
) -> str | None:  # fmt: skip
    """Mark the backup and enqueue the verification; the id of the host that does it, or None: the worker."""
    asked_us = tx.now_us if asked_us is None else asked_us
    if not backups.begin_verification(tx, backup.id, level, asked_us, mending=mending):
        return None
    if level is VerificationLevel.OBJECTS:
        deployment.queue.enqueue(tx, "prove_objects", backup.id)
        return None
    there = hosts.seen_since(tx, tx.now_us - deployment.lease_us)
    host = choose_host_of(tx, there, backup.datastore, backup.version, backup.account)
    payload = Payload(chain=chain_of(tx, backup))
    give_task(tx, TaskKind.VERIFY, payload, host_id=host.id, account=backup.account, backup_id=backup.id)
    return host.id
