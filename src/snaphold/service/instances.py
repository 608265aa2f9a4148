"""Instances: created, restored, listed, renamed, restarted, deleted (contract, sections 3 and 4)."""

import uuid

import structlog

from snaphold.catalog import backups, hosts, instances, schedules, tasks
from snaphold.catalog.database import Transaction
from snaphold.errors import BadRequest, Forbidden, NotFound, NotOffered, Unavailable, Unprocessable
from snaphold.model import (
    GIB,
    Backup,
    BackupStatus,
    Host,
    Instance,
    InstanceStatus,
    choose_host,
    datastore_id,
    gigabytes,
    version_id,
)
from snaphold.protocol import ChainLink, Datastore, InstanceSpec, TaskKind
from snaphold.service.backups import unavailable_for_action
from snaphold.service.deployment import Deployment
from snaphold.service.requests import InstancePage, InstanceRequest, PageRequest
from snaphold.steps import Step, reached

log = structlog.get_logger()


def create_instance(deployment: Deployment, account: str, request: InstanceRequest) -> Instance:
    """Ask for a new instance, an empty one or one restored from a backup: row BUILD and the host's task.

    Raises:
        BadRequest: no volume and nothing to restore; a datastore other than the backup's.
        NotFound: no such backup, datastore or version.
        Unprocessable: the backup cannot be restored as it is now.
        Forbidden: the backup does not fit the volume.
        Unavailable: no host that can run it is there.
    """
    if request.backup_ref is not None:
        deployment.store_gate.check(account)
    with deployment.catalog.writing() as tx:
        if request.replica_of is not None:
            find_instance(tx, account, request.replica_of)
            raise NotOffered("Replicas are not offered by this release.")
        backup = None if request.backup_ref is None else _restorable(tx, account, request.backup_ref)
        volume_gb = _volume(request, backup)
        there = hosts.seen_since(tx, tx.now_us - deployment.lease_us)
        datastore = _choose_datastore(there, request, backup)
        host = _choose_host(tx, there, datastore, account)
        instance = Instance(
            id=str(uuid.uuid4()),
            account=account,
            name=request.name if request.name is not None else "",
            status=InstanceStatus.BUILD,
            host_id=host.id,
            datastore=datastore.type,
            version=datastore.version,
            flavor_id=request.flavor.id,
            volume_gb=volume_gb,
            address=None,
            port=None,
            used_bytes=None,
            running=False,
            reason=None,
            restored_from=None if backup is None else backup.id,
            created_us=tx.now_us,
            updated_us=tx.now_us,
            deleted_us=None,
        )
        instances.insert(tx, instance)
        _give_to_host(tx, instance, request, backup)
    reached(Step.CONTROL_ASKED)
    deployment.wakeups.notify(host.id)
    log.info("instance.requested", instance=instance.id, account=account, restored_from=instance.restored_from)
    return instance


def list_instances(deployment: Deployment, account: str, page: PageRequest) -> InstancePage:
    """The account's instances, newest first. Raises ``BadRequest`` for a marker that never was one of them."""
    with deployment.catalog.reading() as tx:
        found = instances.page(tx, account, limit=page.limit, marker=page.marker)
    if found is None:
        raise BadRequest(f"There is no marker {page.marker}.")
    rows, more = found
    return InstancePage(instances=rows, next_marker=rows[-1].id if more else None)


def show_instance(deployment: Deployment, account: str, instance_id: str) -> Instance:
    """One instance. Raises ``NotFound``."""
    with deployment.catalog.reading() as tx:
        return find_instance(tx, account, instance_id)


def rename_instance(deployment: Deployment, account: str, instance_id: str, name: str) -> None:
    """Give it another name, whatever it is doing. Raises ``NotFound``."""
    with deployment.catalog.writing() as tx:
        instances.rename(tx, find_instance(tx, account, instance_id).id, name)


def restart_instance(deployment: Deployment, account: str, instance_id: str) -> None:
    """Have its server stopped and started; one in ERROR that has been ACTIVE too.

    Raises:
        NotFound: no such instance.
        Unprocessable: it is not free for that.
        Unavailable: its host is silent.
    """
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        failed_once = [InstanceStatus.ERROR] if instance.address is not None else []
        _begin(tx, instance, [InstanceStatus.ACTIVE, *failed_once], InstanceStatus.REBOOT)
        require_host(tx, deployment, instance)
        _simple_task(tx, instance, TaskKind.RESTART)
    deployment.wakeups.notify(instance.host_id)
    log.info("instance.restart_requested", instance=instance_id, account=account)


def delete_instance(deployment: Deployment, account: str, instance_id: str) -> None:
    """Have its server, data and schedule removed; its backups stay. A host that is away does it when it is back.

    Raises:
        NotFound: no such instance.
        Unprocessable: it is not free for that.
    """
    with deployment.catalog.writing() as tx:
        instance = find_instance(tx, account, instance_id)
        if instance.status is InstanceStatus.SHUTDOWN:
            return
        _begin(tx, instance, [InstanceStatus.ACTIVE, InstanceStatus.ERROR], InstanceStatus.SHUTDOWN)
        _simple_task(tx, instance, TaskKind.DELETE)
        schedules.delete_of_source(tx, instance_id)
    reached(Step.CONTROL_ASKED)
    deployment.wakeups.notify(instance.host_id)
    log.info("instance.delete_requested", instance=instance_id, account=account)


def check_available(deployment: Deployment, account: str, instance_id: str) -> Instance:
    """The instance, if an action could be performed on it now. Raises ``NotFound``, ``Unprocessable``."""
    instance = show_instance(deployment, account, instance_id)
    if instance.status is not InstanceStatus.ACTIVE:
        raise unavailable_for_action(instance_id, instance.status)
    return instance


def list_datastores(deployment: Deployment) -> list[Datastore]:
    """What the hosts that are there can run, each type and version once, the newest version of a type first."""
    with deployment.catalog.reading() as tx:
        return _offered(hosts.seen_since(tx, tx.now_us - deployment.lease_us))


def find_instance(tx: Transaction, account: str, instance_id: str) -> Instance:
    """The account's instance. Raises ``NotFound``, the same for unknown, foreign and deleted ones."""
    instance = instances.find(tx, account, instance_id)
    if instance is None:
        raise NotFound(f"Instance {instance_id} cannot be found.")
    return instance


def require_host(tx: Transaction, deployment: Deployment, instance: Instance) -> None:
    """Raises ``Unavailable`` when the instance's host is silent."""
    host = hosts.get(tx, instance.host_id)
    if host is None or host.seen_us is None or host.seen_us < tx.now_us - deployment.lease_us:
        raise Unavailable(f"The host of instance {instance.id} does not answer.")


def _restorable(tx: Transaction, account: str, backup_id: str) -> Backup:
    backup = backups.find(tx, account, backup_id)
    if backup is None:
        raise NotFound(f"Backup {backup_id} cannot be found.")
    if backup.status is not BackupStatus.COMPLETED:
        raise Unprocessable(f"Backup {backup_id} is not COMPLETED.")
    if backup.deleting:
        raise Unprocessable(f"Backup {backup_id} is being deleted.")
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


def _offered(there: list[Host]) -> list[Datastore]:
    newest: dict[tuple[str, str], Datastore] = {}
    for entry in (Datastore.model_validate(entry) for host in there for entry in host.datastores):
        known = newest.get((entry.type, entry.version))
        if known is None or _number(known.full_version) < _number(entry.full_version):
            newest[entry.type, entry.version] = entry
    by_version = sorted(newest.values(), key=lambda entry: _number(entry.version), reverse=True)
    return sorted(by_version, key=lambda entry: entry.type)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _choose_datastore(there: list[Host], request: InstanceRequest, backup: Backup | None) -> Datastore:
    offered = _offered(there)
    wanted = request.datastore.lower() if request.datastore is not None else None
    if backup is not None:
        if wanted is not None and wanted not in {backup.datastore, datastore_id(backup.datastore)}:
            raise BadRequest(
                f"The backup is of datastore {backup.datastore} and cannot be restored to {request.datastore}."
            )
        wanted = backup.datastore
    if not offered:
        raise Unavailable("No database host is there.")
    fitting = [entry for entry in offered if wanted is None or wanted in {entry.type, datastore_id(entry.type)}]
    if not fitting:
        raise NotFound(f"Datastore '{wanted}' cannot be found.")
    version = request.version
    if backup is not None and version is None:
        version = backup.version
    if version is None:
        return fitting[0]
    for entry in fitting:
        if version in {entry.version, entry.full_version, version_id(entry.type, entry.version)}:
            if backup is not None and entry.version != backup.version:
                break
            return entry
    raise NotFound(f"Datastore version '{version}' cannot be found.")


def _choose_host(tx: Transaction, there: list[Host], datastore: Datastore, account: str) -> Host:
    able = [
        host
        for host in there
        if any((e["type"], e["version"]) == (datastore.type, datastore.version) for e in host.datastores)
    ]
    load, accounts = instances.tenants(tx)
    host = choose_host(able, load, accounts, account)
    if host is None:
        raise Unavailable("No database host that is there may take an instance of this account.")
    if host.shared_system_user and accounts.get(host.id, set()) - {account}:
        log.warning("host.shared_system_user", host=host.name, account=account)
    return host


def _give_to_host(tx: Transaction, instance: Instance, request: InstanceRequest, backup: Backup | None) -> None:
    spec = InstanceSpec(
        id=instance.id,
        account=instance.account,
        name=instance.name,
        datastore=instance.datastore,
        version=instance.version,
        ram_mb=request.flavor.ram_mb,
        volume_gb=instance.volume_gb,
        databases=list(request.databases),
        users=list(request.users),
    )
    chain = [] if backup is None else [_link(backup)]
    tasks.insert(
        tx,
        task_id=str(uuid.uuid4()),
        kind=TaskKind.CREATE if backup is None else TaskKind.RESTORE,
        host_id=instance.host_id,
        account=instance.account,
        instance_id=instance.id,
        backup_id=None if backup is None else backup.id,
        payload={
            "instance": spec.model_dump(mode="json"),
            "chain": [link.model_dump(mode="json") for link in chain],
        },
    )


def _link(backup: Backup) -> ChainLink:
    if backup.manifest_sha256 is None:  # a constraint of the catalog forbids it
        raise Unprocessable(f"Backup {backup.id} has no manifest.")
    return ChainLink(backup_id=backup.id, account=backup.account, manifest_sha256=backup.manifest_sha256)


def _begin(tx: Transaction, instance: Instance, origins: list[InstanceStatus], to: InstanceStatus) -> None:
    if not instances.move(tx, instance.id, origins, to):
        raise unavailable_for_action(instance.id, instance.status)


def _simple_task(tx: Transaction, instance: Instance, kind: TaskKind) -> None:
    tasks.insert(
        tx,
        task_id=str(uuid.uuid4()),
        kind=kind,
        host_id=instance.host_id,
        account=instance.account,
        instance_id=instance.id,
        backup_id=None,
        payload={},
    )
