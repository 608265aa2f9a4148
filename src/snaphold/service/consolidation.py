"""Consolidation: an increment and its chain become a full backup (contract, section 2, "Consolidate")."""

import uuid

import structlog

from snaphold.catalog import backups, hosts
from snaphold.errors import Unprocessable
from snaphold.facts import spec_of
from snaphold.model import Backup, BackupStatus, Origin, Rate
from snaphold.protocol import TaskKind
from snaphold.service import limits, quotas
from snaphold.service.chains import chain_of, refuse_broken_chain
from snaphold.service.deployment import Deployment
from snaphold.service.find import find_usable_backup
from snaphold.service.host_tasks import give_task
from snaphold.service.placement import choose_host_of
from snaphold.steps import Step, reached
from snaphold.task_kinds import Payload

_log = structlog.get_logger()

_MAX_NAME = 64  # characters


def request_consolidation(deployment: Deployment, account: str, backup_id: str, name: str | None) -> Backup:
    """Request a full backup of the same moment, made from an increment and its chain; the new backup.

    It makes no instance busy, and does not count as a running backup. The chain is in use until it has ended.

    Raises:
        NotFound: no such backup.
        Unprocessable: it is not COMPLETED, is being deleted, depends on what is, or is no increment.
        OverLimit: the account has reached its limit of backups.
        Unavailable: no host that could make it answers.
    """
    deployment.store_gate.check(account, write=True)
    with deployment.catalog.writing() as tx:
        old = find_usable_backup(tx, account, backup_id)
        if old.parent_id is None:
            raise Unprocessable(f"Backup {backup_id} is a full backup already.")
        refuse_broken_chain(tx, old)
        quotas.check_backups(tx, deployment, account)
        host = choose_host_of(
            tx, hosts.seen_since(tx, tx.now_us - deployment.lease_us), old.datastore, old.version, account
        )
        new = Backup(
            id=str(uuid.uuid4()),
            account=account,
            name=f"{old.name[: _MAX_NAME - 5]}-full" if name is None else name,
            description=old.description,
            status=BackupStatus.NEW,
            instance_id=old.instance_id,
            source_type=old.source_type,
            source_id=old.source_id,
            parent_id=None,
            datastore=old.datastore,
            version=old.version,
            flavor_ram_mb=old.flavor_ram_mb,
            volume_gb=old.volume_gb,
            is_automated=False,
            made=Origin.CONSOLIDATED,
            made_from=old.id,
            created_us=tx.now_us,
            updated_us=tx.now_us,
        )
        backups.insert(tx, new)
        spec = spec_of(new, deployment_id=deployment.deployment_id, verify=deployment.verify_after_backup)
        payload = Payload(backup=spec, chain=chain_of(tx, old))
        give_task(tx, TaskKind.CONSOLIDATE, payload, host_id=host.id, account=account, backup_id=new.id)
        limits.count(tx, deployment, account, Rate.BACKUP_ACTIONS)
    reached(Step.CONTROL_ASKED)
    deployment.wakeups.notify(host.id)
    _log.info("backup.consolidation_requested", backup=new.id, made_from=old.id, account=account)
    return new
