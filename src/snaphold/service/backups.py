"""Backups: request, list, show, delete, cancel (chapter "On demand backups"; contract, section 2)."""

import uuid
from collections.abc import Collection
from contextlib import suppress
from types import MappingProxyType

import structlog

from snaphold.catalog import backups, instances, tasks
from snaphold.catalog import copies as copy_rows
from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.errors import BadRequest, NotFound, Unavailable, Unprocessable
from snaphold.facts import spec_of
from snaphold.model import (
    FLAVORS,
    KNOWN_DATASTORES,
    Backup,
    BackupStatus,
    Instance,
    InstanceStatus,
    Origin,
    Rate,
    datastore_id,
)
from snaphold.protocol import TaskKind
from snaphold.service import copies, limits, quotas
from snaphold.service.availability import unavailable_for_action
from snaphold.service.chains import chain_of, named_parent, newest_parent
from snaphold.service.deployment import Deployment
from snaphold.service.find import find_backup, find_source
from snaphold.service.host_tasks import give_task
from snaphold.service.outcomes import abandon
from snaphold.service.requests import BackupPage, BackupRequest, PageRequest
from snaphold.steps import Step, reached
from snaphold.task_kinds import Payload

_log = structlog.get_logger()


def request_backup(deployment: Deployment, account: str, request: BackupRequest) -> Backup:
    """Request a backup: row NEW, instance BACKUP and the host's task, in one transaction.

    Raises:
        Refused: by the checks of contract section 2, "Create checks", in its order.
        Forbidden, Unavailable: the account's store refuses, or does not answer.
    """
    deployment.store_gate.check(account, write=True)
    parents = copies.ask_of_parent(deployment, account, request)
    with deployment.catalog.writing() as tx:
        instance = find_source(tx, account, request.source_type, request.source_id)
        backup = begin_backup(tx, deployment, instance, request, parents=parents)
        limits.count(tx, deployment, account, Rate.BACKUP_CREATES)
    reached(Step.CONTROL_ASKED)
    deployment.wakeups.notify(instance.host_id)
    _log.info("backup.requested", backup=backup.id, instance=instance.id, account=account, name=backup.name)
    return backup


def begin_backup(
    tx: Transaction,
    deployment: Deployment,
    instance: Instance,
    request: BackupRequest,
    *,
    is_automated: bool = False,
    parents: copies.Parents = MappingProxyType({}),
) -> Backup:
    """Begin a backup that a caller or a schedule requests, in the transaction of either.

    An increment without a named parent is based on the newest backup of the data that its source has now, a scheduled
    one on the newest scheduled one, since people may delete the backups that people made. If there is none, or if the
    host finds that an increment would be incomplete, the backup is a full one.

    Args:
        parents: what the regions of ``copy_to`` have of a named parent. If the request names none, missing ancestors
            are copied too.

    Raises:
        Refused: by the checks of contract section 2, "Create checks", in its order.
    """
    if instance.status is not InstanceStatus.ACTIVE:
        raise unavailable_for_action(instance.id, instance.status)
    quotas.check_running_backups(tx, deployment, instance.account)
    parent = None
    if request.parent_id is not None:
        parent = named_parent(tx, instance, request.parent_id)
    elif request.incremental:
        parent = newest_parent(tx, instance, automated_only=is_automated)
    if not is_automated:  # a schedule may outlive the regions that it copies to: then the copy fails, with a reason
        check_copies(deployment, request.copy_to)
    copies.check_parents(request, parents)
    quotas.check_backups(tx, deployment, instance.account)
    backup = _new_backup(tx, instance, request, parent, is_automated=is_automated)
    if not backups.insert(tx, backup) or not instances.move(
        tx, instance.id, [InstanceStatus.ACTIVE], InstanceStatus.BACKUP
    ):
        raise unavailable_for_action(instance.id, InstanceStatus.BACKUP)
    copies.plan_copies(
        tx, backup, request.copy_to or (), asked_by=request.asked_by, with_ancestors=request.parent_id is None
    )
    _give_to_host(tx, deployment, instance, backup, parent, named=request.parent_id is not None)
    return backup


def list_backups(
    deployment: Deployment,
    account: str,
    page: PageRequest,
    *,
    datastore: str | None = None,
    instance_id: str | None = None,
) -> BackupPage:
    """The account's backups, newest first.

    Raises:
        NotFound: no such datastore.
        BadRequest: the marker was never a backup of this account.
    """
    wanted = None if datastore is None else _known_datastore(datastore)
    with deployment.catalog.reading() as tx:
        return _page(tx, account, page, datastore=wanted, instance_id=instance_id)


def list_instance_backups(deployment: Deployment, account: str, instance_id: str, page: PageRequest) -> BackupPage:
    """The backups of one instance, also of a deleted one. Raises ``NotFound`` if it has never existed."""
    with deployment.catalog.reading() as tx:
        if not instances.was_known(tx, account, instance_id):
            raise NotFound.of("Instance", instance_id)
        return _page(tx, account, page, instance_id=instance_id)


def list_group_backups(deployment: Deployment, account: str, group_id: str, page: PageRequest) -> BackupPage:
    """The backups of one HA group. This release has no groups, so every id is unknown."""
    del deployment, account, page
    raise NotFound.of("HA group", group_id)


def show_backup(deployment: Deployment, account: str, backup_id: str) -> Backup:
    """One backup. Raises ``NotFound``, the same for unknown, foreign and deleted ones."""
    with deployment.catalog.reading() as tx:
        return copy_rows.with_copies(tx, [find_backup(tx, account, backup_id)])[0]


def delete_backup(deployment: Deployment, account: str, backup_id: str) -> None:
    """Delete the backup and every increment made from it: they are marked now, and their objects are removed later.

    Raises:
        NotFound: no such backup.
        Unprocessable: it, or an increment of it, is running or is being restored, verified or copied.
        Forbidden: the account's store is read-only. One that does not answer is tried again later.
    """
    with suppress(Unavailable):
        deployment.store_gate.check(account, write=True)
    with deployment.catalog.writing() as tx:
        backup = find_backup(tx, account, backup_id)
        family = [] if backup.deleting else begin_deletion(tx, deployment, backup)
        limits.count(tx, deployment, account, Rate.BACKUP_DELETES)
    if backup.deleting:
        return
    reached(Step.CONTROL_ASKED)
    _log.info("backup.delete_requested", backup=backup_id, account=account, increments=len(family) - 1)


@relies_on_single_writer
def begin_deletion(tx: Transaction, deployment: Deployment, backup: Backup) -> list[Backup]:
    """Begin a delete that a caller or a schedule requests; the whole family. Raises ``Unprocessable``."""
    family = backups.family(tx, backup.id)
    for member in family:
        if member.running:
            raise Unprocessable(f"Backup {member.id} cannot be deleted because it is running.")
    used = backups.in_use(tx, [member.id for member in family])
    if used is not None:
        raise Unprocessable(f"Backup {used} is in use.")
    backups.mark_deleting(tx, [member.id for member in family], deleting=True)
    deployment.queue.enqueue(tx, "delete_backup", backup.id)
    return family


def cancel_backup(deployment: Deployment, account: str, backup_id: str) -> None:
    """Cancel a running backup: it is FAILED, its instance is free, and its host stops at once.

    Raises:
        NotFound: no such backup.
        Unprocessable: it is not running.
    """
    with deployment.catalog.writing() as tx:
        backup = find_backup(tx, account, backup_id)
        attempt = tasks.taking(tx, backup_id) if backup.running else None
        if attempt is None:
            raise Unprocessable(f"Backup {backup_id} is not running.")
        abandon(tx, deployment, attempt, "It was cancelled.")
        limits.count(tx, deployment, account, Rate.BACKUP_ACTIONS)
    deployment.wakeups.notify(attempt.host_id)
    _log.info("backup.cancelled", backup=backup_id, account=account, attempt=attempt.number)


def check_copies(deployment: Deployment, copy_to: Collection[str] | None) -> None:
    """Raises ``BadRequest`` for a region that backups cannot be copied to."""
    copies.check_regions(deployment, tuple(copy_to or ()))
    copies.check_peers(deployment, tuple(copy_to or ()))


def _new_backup(
    tx: Transaction, instance: Instance, request: BackupRequest, parent: Backup | None, *, is_automated: bool
) -> Backup:
    return Backup(
        id=str(uuid.uuid4()),
        account=instance.account,
        name=request.name,
        description=request.description,
        status=BackupStatus.NEW,
        instance_id=instance.id,
        source_type=instance.source.type,
        source_id=instance.source.id,
        parent_id=None if parent is None else parent.id,
        datastore=instance.datastore,
        version=instance.version,
        flavor_ram_mb=FLAVORS[instance.flavor_id].ram_mb,
        volume_gb=instance.volume_gb,
        is_automated=is_automated,
        made=Origin.TAKEN,
        created_us=tx.now_us,
        updated_us=tx.now_us,
    )


def _give_to_host(
    tx: Transaction, deployment: Deployment, instance: Instance, backup: Backup, parent: Backup | None, *, named: bool
) -> None:
    spec = spec_of(
        backup,
        deployment_id=deployment.deployment_id,
        verify=deployment.verify_after_backup,
        parent_named=named,
        instance=instance,
    )
    give_task(
        tx,
        TaskKind.BACKUP,
        Payload(backup=spec, chain=[] if parent is None else chain_of(tx, parent)),
        host_id=instance.host_id,
        account=backup.account,
        instance_id=instance.id,
        backup_id=backup.id,
    )


def _page(
    tx: Transaction, account: str, page: PageRequest, *, datastore: str | None = None, instance_id: str | None = None
) -> BackupPage:
    found = backups.page(
        tx, account, limit=page.limit, marker=page.marker, datastore=datastore, instance_id=instance_id
    )
    if found is None:
        raise BadRequest(f"There is no marker {page.marker}.")
    rows, more = found
    return BackupPage(backups=copy_rows.with_copies(tx, rows), next_marker=rows[-1].id if more else None)


def _known_datastore(wanted: str) -> str:
    for name in KNOWN_DATASTORES:
        if wanted.lower() in {name, datastore_id(name)}:
            return name
    raise NotFound.of("Datastore", wanted)
