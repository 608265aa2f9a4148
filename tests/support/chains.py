"""Chains taken by the agent's own code from a real server, without an API."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from snaphold.agent.backup import taken_backup
from snaphold.agent.chain import Chain
from snaphold.agent.consolidate import consolidated_backup
from snaphold.agent.control import Control
from snaphold.agent.lease import Lease
from snaphold.agent.restore import restored_instance
from snaphold.agent.room import Room
from snaphold.host.servers import Staging
from snaphold.model import rfc3339
from snaphold.protocol import (
    BackupResult,
    BackupSpec,
    ChainLink,
    InstanceResult,
    InstanceSpec,
    Progress,
    Task,
    TaskKind,
)
from tests.support.instances import instance_spec

ACCOUNT = "1234"
_PLAIN = {".frm", ".MYD", ".MYI", ".MAD", ".MAI", ".par", ".opt"}  # whole in every increment


class SilentControl(Control):
    """A control plane that hears everything and says nothing."""

    def __init__(self) -> None:
        """Nobody is connected to."""

    def progress(self, task_id: str, message: Progress) -> None:
        """Well heard."""


@dataclass
class ChainBench:
    """A host, and the chain of backups that were taken of one of its instances."""

    room: Room
    spec: InstanceSpec
    links: list[ChainLink] = field(default_factory=list)
    results: list[BackupResult] = field(default_factory=list)

    def take(self, *, full: bool = False, named: bool = True) -> BackupResult:
        """Take the next backup: an increment on the newest one, or a full one that begins a new chain."""
        links = [] if full else list(self.links)
        spec = self.backup_spec(parent_id=links[-1].backup_id if links else None, named=named)
        task = self.task(TaskKind.BACKUP, links, backup=spec, instance_id=self.spec.id)
        with taken_backup(self.room, task, spec, lease_of(task)) as result:
            pass
        kept = links if result.parent_id is not None else []
        self.links = [*kept, self.link(spec.id, result)]
        self.results.append(result)
        return result

    @property
    def last_lsn(self) -> int:
        """Where the newest backup ended."""
        return Chain.opened(self.room.stores, self.links).newest.lineage.last_lsn

    def restore(self, links: list[ChainLink] | None = None) -> InstanceResult:
        """A new instance, as the agent makes it, of the chain that ends with the last of these backups."""
        copy = instance_spec(databases=(), users=[])
        task = self.task(TaskKind.RESTORE, self.links if links is None else links, instance=copy, instance_id=copy.id)
        with restored_instance(self.room, task, copy, lease_of(task)) as result:
            return result

    def consolidate(self) -> tuple[list[ChainLink], BackupResult]:
        """Merge the chain; the new backup alone is the chain that comes back."""
        spec = self.backup_spec(parent_id=None)
        task = self.task(TaskKind.CONSOLIDATE, self.links, backup=spec)
        with consolidated_backup(self.room, task, spec, lease_of(task)) as result:
            return [self.link(spec.id, result)], result

    def laid(self, way: Callable[[Chain, Room, Staging, Lease], None]) -> tuple[InstanceResult, dict[str, bytes]]:
        """A new instance of the chain's files, laid down this way; and what its files were that are no InnoDB's."""
        copy = instance_spec(databases=(), users=[])
        staging = self.room.servers.staging(copy, 1)
        task = self.task(TaskKind.RESTORE, self.links, instance=copy)
        way(Chain.opened(self.room.stores, self.links), self.room, staging, lease_of(task))
        self.room.engines["mariadb"].prepare(
            staging.directory, uid=staging.uid, gid=staging.gid, memory_bytes=staging.memory_bytes
        )
        paths = [path for path in staging.directory.rglob("*") if path.is_file()]
        files = {
            str(path.relative_to(staging.directory)): path.read_bytes() if path.suffix in _PLAIN else b""
            for path in paths
        }
        return self.room.servers.finish_restore(copy, 1), files

    def backup_spec(self, *, parent_id: str | None, named: bool = True) -> BackupSpec:
        """What an agent is told of a backup to take."""
        return BackupSpec(
            id=str(uuid.uuid4()),
            account=ACCOUNT,
            instance_id=self.spec.id,
            deployment="deployment",
            name="b",
            description=None,
            source_id=self.spec.id,
            parent_id=parent_id,
            parent_named=named,
            created=rfc3339(time.time_ns() // 1000),
            volume_gb=1,
            flavor_ram_mb=512,
            datastore="mariadb",
            version=self.room.servers.installation.series,
            version_id="v",
        )

    @staticmethod
    def task(kind: TaskKind, links: list[ChainLink], **more: Any) -> Task:
        """A task as it is claimed."""
        return Task(id=str(uuid.uuid4()), kind=kind, attempt=1, lease_s=30, chain=links, **more)

    @staticmethod
    def link(backup_id: str, result: BackupResult) -> ChainLink:
        """What a later task says of a backup."""
        return ChainLink(backup_id=backup_id, account=ACCOUNT, manifest_sha256=result.manifest_sha256)


def lease_of(task: Task) -> Lease:
    """A lease that nobody takes away."""
    return Lease(SilentControl(), "session", task, renew_s=60)
