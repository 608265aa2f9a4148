"""Instances: create, restore, list, rename, restart, stop, start, resize, delete (contract, sections 3 and 4)."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

import structlog

from snaphold.catalog import hosts, instances, schedules, tasks
from snaphold.catalog.database import Transaction
from snaphold.errors import BadRequest, Forbidden, NotOffered, Unprocessable
from snaphold.model import (
    FLAVORS,
    GIB,
    Backup,
    BackupStatus,
    Flavor,
    Instance,
    InstanceStatus,
    Rate,
    gigabytes,
)
from snaphold.names import charset_fault
from snaphold.protocol import DatabaseSpec, InstanceSpec, Memory, TaskKind
from snaphold.service import limits, quotas
from snaphold.service.availability import begin_action, require_host, unavailable_for_action
from snaphold.service.chains import chain_of, refuse_broken_chain
from snaphold.service.deployment import Deployment
from snaphold.service.find import find_backup, find_instance
from snaphold.service.host_tasks import give_task
from snaphold.service.outcomes import abandon
from snaphold.service.placement import (
    Offer,
    check_memory,
    choose_datastore,
    offers_of,
    place_instance,
)
from snaphold.service.requests import InstancePage, InstanceRequest, PageRequest
from snaphold.steps import Step, reached
from snaphold.task_kinds import Payload

_log = structlog.get_logger()


def create_instance(deployment: Deployment, account: str, request: InstanceRequest) -> Instance:
    """Request a new instance, empty or restored from a backup: row BUILD and the host's task, in one transaction.

    Raises:
        BadRequest: no volume and nothing to restore; a datastore other than the backup's; a database with a character
            set or collation that the version does not have.
        NotFound: no such backup, datastore or version.
        Unprocessable: the backup cannot be restored as it is now.
        Forbidden: the backup does not fit the volume.
        OverLimit: no host has the memory of the flavor, or the account's quota is used up.
        Unavailable: no host that can run it answers, or none has a free address.
    """
    if request.backup_ref is not None:
        deployment.store_gate.check(account, write=False)
    with deployment.catalog.writing() as tx:
        if request.replica_of is not None:
            find_instance(tx, account, request.replica_of)
            raise NotOffered("Replicas are not offered by this release.")
        backup = None if request.backup_ref is None else _restorable(tx, account, request.backup_ref)
        volume_gb = _volume(request, backup)
        there = hosts.seen_since(tx, tx.now_us - deployment.lease_us)
        datastore = choose_datastore(there, request, backup)
        refuse_unknown_charsets(datastore.version, request.databases)
        instance_id = str(uuid.uuid4())
        host, place = place_instance(
            tx, deployment.settings, there, datastore, account, flavor=request.flavor, instance_id=instance_id
        )
        instance = Instance(
            id=instance_id,
            account=account,
            name=request.name if request.name is not None else "",
            status=InstanceStatus.BUILD,
            deleting=False,
            host_id=host.id,
            datastore=datastore.type,
            version=datastore.version,
            flavor_id=request.flavor.id,
            volume_gb=volume_gb,
            hostname=place.hostname,
            reserved_address=place.address,
            address=None,
            port=place.port,
            used_bytes=None,
            running=False,
            reason=None,
            restored_from=None if backup is None else backup.id,
            created_us=tx.now_us,
            updated_us=tx.now_us,
            deleted_us=None,
        )
        quotas.check_instances(tx, deployment, account, more_gb=volume_gb, more_instances=1)
        instances.insert(tx, instance)
        _give_to_host(tx, instance, request, backup)
        limits.count(tx, deployment, account, Rate.INSTANCE_CREATES)
    reached(Step.CONTROL_ASKED)
    deployment.wakeups.notify(host.id)
    _log.info("instance.requested", instance=instance.id, account=account, restored_from=instance.restored_from)
    return instance


def list_instances(deployment: Deployment, account: str, page: PageRequest) -> InstancePage:
    """The account's instances, newest first. Raises ``BadRequest`` if the marker was never one of them."""
    with deployment.catalog.reading() as tx:
        found = instances.page(tx, account, limit=page.limit, marker=page.marker)
        there = hosts.ids_seen_since(tx, tx.now_us - deployment.lease_us)
    if found is None:
        raise BadRequest(f"There is no marker {page.marker}.")
    rows, more = found
    rows = [replace(instance, host_silent=instance.host_id not in there) for instance in rows]
    return InstancePage(instances=rows, next_marker=rows[-1].id if more else None)


def show_instance(deployment: Deployment, account: str, instance_id: str) -> Instance:
    """One instance. Raises ``NotFound``."""
    with deployment.catalog.reading() as tx:
        instance = find_instance(tx, account, instance_id)
        there = hosts.ids_seen_since(tx, tx.now_us - deployment.lease_us)
        return replace(instance, host_silent=instance.host_id not in there)


def rename_instance(deployment: Deployment, account: str, instance_id: str, name: str) -> None:
    """Rename an instance, in any status. Raises ``NotFound``."""
    with deployment.catalog.writing() as tx:
        instances.rename(tx, find_instance(tx, account, instance_id).id, name)
        limits.count(tx, deployment, account, Rate.INSTANCE_RENAMES)


def restart_instance(deployment: Deployment, account: str, instance_id: str) -> None:
    """Restart the server of an instance; also of one in ERROR that has been ACTIVE.

    Raises:
        NotFound: no such instance.
        Unprocessable: it is not available for an action.
        Unavailable: its host does not answer.
    """
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        begin_action(tx, instance, _with_server(instance), InstanceStatus.REBOOT)
        require_host(tx, deployment, instance)
        _simple_task(tx, instance, TaskKind.RESTART)
        limits.count(tx, deployment, account, Rate.INSTANCE_ACTIONS)
    deployment.wakeups.notify(instance.host_id)
    _log.info("instance.restart_requested", instance=instance_id, account=account)


def stop_instance(deployment: Deployment, account: str, instance_id: str) -> None:
    """Stop the server: SHUTDOWN until it is started or deleted. Raises as ``restart_instance`` does."""
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        begin_action(tx, instance, _with_server(instance), InstanceStatus.SHUTDOWN, reason=None)
        require_host(tx, deployment, instance)
        _simple_task(tx, instance, TaskKind.STOP)
        limits.count(tx, deployment, account, Rate.INSTANCE_ACTIONS)
    deployment.wakeups.notify(instance.host_id)
    _log.info("instance.stop_requested", instance=instance_id, account=account)


def start_instance(deployment: Deployment, account: str, instance_id: str) -> None:
    """Start the server of a stopped instance. Raises as ``restart_instance`` does."""
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        begin_action(tx, instance, [InstanceStatus.SHUTDOWN], InstanceStatus.REBOOT)
        require_host(tx, deployment, instance)
        _simple_task(tx, instance, TaskKind.START)
        limits.count(tx, deployment, account, Rate.INSTANCE_ACTIONS)
    deployment.wakeups.notify(instance.host_id)
    _log.info("instance.start_requested", instance=instance_id, account=account)


def resize_volume(deployment: Deployment, account: str, instance_id: str, volume_gb: int) -> None:
    """Give it a larger volume. It takes effect at once: hosts reserve no space for a volume.

    Raises:
        NotFound: no such instance.
        Unprocessable: it is not available for an action.
        BadRequest: the volume would not grow.
        OverLimit: the account's volumes would exceed its limit.
    """
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        if instance.status is not InstanceStatus.ACTIVE:
            raise unavailable_for_action(instance_id, instance.status)
        if volume_gb <= instance.volume_gb:
            raise BadRequest(f"The new volume must be larger than the present one of {instance.volume_gb} GB.")
        quotas.check_instances(tx, deployment, account, more_gb=volume_gb - instance.volume_gb)
        instances.set_volume(tx, instance_id, volume_gb)
        limits.count(tx, deployment, account, Rate.INSTANCE_ACTIONS)
    _log.info("instance.volume_resized", instance=instance_id, account=account, volume_gb=volume_gb)


def resize_flavor(deployment: Deployment, account: str, instance_id: str, flavor: Flavor) -> None:
    """Restart the server with the memory of another flavor: RESIZE, then ACTIVE with the new flavor.

    A server that does not start with it is started with the old one.

    Raises:
        NotFound: no such instance.
        Unprocessable: it is not available for an action.
        BadRequest: it has this flavor already.
        OverLimit: its host does not have that much memory.
        Unavailable: its host does not answer.
    """
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        begin_action(tx, instance, [InstanceStatus.ACTIVE], InstanceStatus.RESIZE)
        if flavor.id == instance.flavor_id:
            raise BadRequest(f"The instance has flavor {flavor.id} already.")
        check_memory(require_host(tx, deployment, instance), flavor)
        _simple_task(tx, instance, TaskKind.RESIZE, flavor)
        limits.count(tx, deployment, account, Rate.INSTANCE_ACTIONS)
    deployment.wakeups.notify(instance.host_id)
    _log.info("instance.resize_requested", instance=instance_id, account=account, flavor=flavor.id)


def reset_status(deployment: Deployment, account: str, instance_id: str) -> None:
    """Free an instance that is stuck, so that it can be deleted (``openstack database instance force delete``).

    1. In BACKUP: its running backup is cancelled.
    2. With another task open: the task is abandoned, and the instance in ERROR. One that is being deleted goes on.
    3. In ERROR, once it has been ACTIVE and its server runs: ACTIVE. (A host that answers does so by itself.)
    4. Else nothing.

    Raises ``NotFound``.
    """
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        task = tasks.open_of_instance(tx, instance_id)
        if task is not None and task.kind != TaskKind.DELETE:
            abandon(tx, deployment, task, "It was cancelled: the status of its instance was reset.")
        elif instance.status is InstanceStatus.ERROR and instance.running and instance.address is not None:
            instances.move(tx, instance_id, [InstanceStatus.ERROR], InstanceStatus.ACTIVE, reason=None)
        limits.count(tx, deployment, account, Rate.INSTANCE_ACTIONS)
    deployment.wakeups.notify(instance.host_id)
    _log.info("instance.status_reset", instance=instance_id, account=account, status=instance.status)


def delete_instance(deployment: Deployment, account: str, instance_id: str) -> None:
    """Delete its server, data and schedule; its backups stay. A host that does not answer deletes it when it is back.

    Raises:
        NotFound: no such instance.
        Unprocessable: it is not available for an action.
    """
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        if not instance.deleting:
            origins = [InstanceStatus.ACTIVE, InstanceStatus.ERROR, InstanceStatus.SHUTDOWN]
            begin_action(tx, instance, origins, InstanceStatus.SHUTDOWN, deleting=True)
            _simple_task(tx, instance, TaskKind.DELETE)
            schedules.delete_of_source(tx, instance_id)
        limits.count(tx, deployment, account, Rate.INSTANCE_DELETES)
    if instance.deleting:
        return
    reached(Step.CONTROL_ASKED)
    deployment.wakeups.notify(instance.host_id)
    _log.info("instance.delete_requested", instance=instance_id, account=account)


def list_datastores(deployment: Deployment) -> list[Offer]:
    """The datastores that the hosts which answer can run: each version once, the newest of a type first."""
    with deployment.catalog.reading() as tx:
        return offers_of(hosts.seen_since(tx, tx.now_us - deployment.lease_us))


def refuse_unknown_charsets(version: str, databases: Sequence[DatabaseSpec]) -> None:
    """Raises ``BadRequest`` if a server of this version does not have a database's character set or collation."""
    for database in databases:
        fault = charset_fault(version, database.character_set, database.collate)
        if fault is not None:
            raise BadRequest(f"Database '{database.name}' cannot be made: {fault}")


def _restorable(tx: Transaction, account: str, backup_id: str) -> Backup:
    backup = find_backup(tx, account, backup_id)
    if backup.status is not BackupStatus.COMPLETED:
        raise Unprocessable(f"Backup {backup_id} is not COMPLETED.")
    if backup.deleting:
        raise Unprocessable(f"Backup {backup_id} is being deleted.")
    refuse_broken_chain(tx, backup)
    return backup


def _volume(request: InstanceRequest, backup: Backup | None) -> int:
    if request.volume_gb is not None:
        volume_gb = request.volume_gb
    elif backup is not None:
        volume_gb = backup.volume_gb
    else:
        raise BadRequest("A volume size is required.")
    if backup is not None and backup.size_bytes is not None and backup.size_bytes > volume_gb * GIB:
        raise Forbidden(
            "Backup is too large for given flavor or volume. "
            f"Backup size: {gigabytes(backup.size_bytes)} GBs. Available size: {volume_gb} GBs."
        )
    return volume_gb


def _give_to_host(tx: Transaction, instance: Instance, request: InstanceRequest, backup: Backup | None) -> None:
    spec = InstanceSpec(
        id=instance.id,
        account=instance.account,
        name=instance.name,
        datastore=instance.datastore,
        version=instance.version,
        ram_mb=request.flavor.ram_mb,
        volume_gb=instance.volume_gb,
        address=instance.reserved_address,
        databases=list(request.databases),
        users=list(request.users),
    )
    give_task(
        tx,
        TaskKind.CREATE if backup is None else TaskKind.RESTORE,
        Payload(instance=spec, chain=[] if backup is None else chain_of(tx, backup)),
        host_id=instance.host_id,
        account=instance.account,
        instance_id=instance.id,
        backup_id=None if backup is None else backup.id,
    )


def _with_server(instance: Instance) -> list[InstanceStatus]:
    """The statuses of an instance that may have a server: in ERROR, one that has been ACTIVE."""
    failed_once = [InstanceStatus.ERROR] if instance.address is not None else []
    return [InstanceStatus.ACTIVE, *failed_once]


def _simple_task(tx: Transaction, instance: Instance, kind: TaskKind, flavor: Flavor | None = None) -> None:
    """Give its host a task without further data. ``flavor``: the new one; None: it keeps its own."""
    former = FLAVORS[instance.flavor_id]
    wanted = flavor or former
    memory = Memory(ram_mb=wanted.ram_mb, former_ram_mb=former.ram_mb)
    payload = Payload(memory=memory, flavor_id=wanted.id)
    give_task(tx, kind, payload, host_id=instance.host_id, account=instance.account, instance_id=instance.id)
