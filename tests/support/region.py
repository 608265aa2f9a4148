"""A region without its edge: real catalog, real queue, a clock that the test moves, and a host that the test plays."""

import atexit
import shutil
import tempfile
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from snaphold.catalog import hosts
from snaphold.catalog.database import open_catalog
from snaphold.catalog.identity_db import open_identity_database
from snaphold.config import Settings
from snaphold.model import FLAVORS, Backup, Flavor, Instance, VerificationLevel, VerificationStatus
from snaphold.protocol import (
    BackupResult,
    Claim,
    Datastore,
    Heartbeat,
    Hello,
    InstanceResult,
    Report,
    Task,
    TaskKind,
    VerificationResult,
)
from snaphold.queue import Queue
from snaphold.service import host_registry, outcomes, sessions
from snaphold.service.backups import request_backup, show_backup
from snaphold.service.deployment import Deployment
from snaphold.service.instances import create_instance, show_instance
from snaphold.service.requests import BackupRequest, InstanceRequest

ACCOUNT = "1234"
SECOND_US = 1_000_000


class OpenGate:
    """A store that every account may use."""

    def check(self, account: str, *, write: bool) -> None:
        """Always."""


@dataclass
class Clock:
    """The database's clock: each look is a microsecond later, and the test makes it jump."""

    now_us: int = 1_700_000_000 * SECOND_US

    def __call__(self) -> int:
        """Look at it."""
        self.now_us += 1
        return self.now_us

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_us += int(seconds * SECOND_US)


@dataclass
class Region:
    """What a test needs at hand."""

    deployment: Deployment
    clock: Clock
    host_id: str
    token: str
    port: int = 3306
    session: str = field(default_factory=lambda: str(uuid.uuid4()))

    def hello(self, **told: Any) -> None:
        """A new agent process of the host says hello; ``told``: what else it says of the host."""
        self.session = str(uuid.uuid4())
        message = Hello(
            session=self.session,
            datastores=[Datastore(type="mariadb", version="10.11", full_version="10.11.19")],
            instances=[],
            shared_system_user=False,
            accepts_shared=True,
            **told,
        )
        self.port = told.get("instance_port", 3306)
        sessions.hello(self.deployment, self.host_id, message)

    def heartbeat(self) -> None:
        """The host says that it is there."""
        sessions.heartbeat(self.deployment, self.host_id, Heartbeat(session=self.session, instances=[]))

    def claim(self, free_slots: int | None = None) -> Task | None:
        """The host asks for a task."""
        message = Claim(session=self.session, wait_s=0, free_slots=free_slots)
        return sessions.claim(self.deployment, self.host_id, message).task

    def report(self, task: Task, *, ok: bool = True, session: str | None = None, address: str | None = None) -> None:
        """The host reports on a task, with a plausible result."""
        message = Report(
            session=session or self.session,
            attempt=task.attempt,
            ok=ok,
            reason=None if ok else "it was told to fail",
            backup=a_result(task) if task.backup is not None else None,
            proof=a_verification() if task.kind is TaskKind.VERIFY else None,
            instance=None if task.instance is None else built_at(address or task.instance.address, self.port),
        )
        outcomes.report(self.deployment, self.host_id, task.id, message)

    def active_instance(self, account: str = ACCOUNT) -> Instance:
        """An instance that its host has built."""
        instance = create_instance(self.deployment, account, an_instance())
        task = self.claim()
        assert task is not None
        self.report(task)
        return show_instance(self.deployment, account, instance.id)

    def completed_backup(self, instance: Instance, name: str = "b") -> Backup:
        """A backup that its host has taken."""
        backup = request_backup(self.deployment, instance.account, a_backup(instance.id, name))
        task = self.claim()
        assert task is not None
        self.report(task)
        return show_backup(self.deployment, instance.account, backup.id)

    def enqueued(self) -> list[tuple[str, str]]:
        """(workflow, input) of everything in the queue, oldest first."""
        with self.deployment.catalog.reading() as tx:
            rows = tx.connection.execute(sa.text("SELECT name, inputs FROM workflow_status ORDER BY created_at, rowid"))
            return [(row.name, row.inputs) for row in rows]


def built_at(address: str | None, port: int) -> InstanceResult:
    """What a host says of an instance that it has built."""
    return InstanceResult(address=address or "127.77.0.1", port=port, used_bytes=1 << 20, full_version="10.11.19")


def a_result(task: Task) -> BackupResult:
    """What a host says of a backup that it has taken."""
    assert task.backup is not None
    return BackupResult(
        manifest_sha256="0" * 64,
        parent_id=task.backup.parent_id,
        size_bytes=5 << 20,
        object_bytes=1 << 20,
        object_name=f"{task.backup.id}.xbstream.gz",
        incarnation="i",
        from_lsn=None,
        checkpoint_lsn=100,
        to_lsn=200,
        updated="2026-01-02T03:04:05Z",
    )


def a_verification(**change: object) -> VerificationResult:
    """What a host says of a verification that a backup has passed."""
    passed = VerificationResult(
        status=VerificationStatus.PASSED,
        level=VerificationLevel.RESTORE,
        at="2026-01-02T03:04:05Z",
        seconds=2.5,
        reason=None,
    )
    return passed.model_copy(update=change)


def a_backup(instance_id: str, name: str = "b") -> BackupRequest:
    """A request for a full backup."""
    return BackupRequest(
        name=name,
        description=None,
        source_type="instance",
        source_id=instance_id,
        parent_id=None,
        incremental=False,
        copy_to=None,
    )


def an_instance(
    *, backup_ref: str | None = None, volume_gb: int | None = 2, flavor: Flavor = FLAVORS[1]
) -> InstanceRequest:
    """A request for an instance."""
    return InstanceRequest(
        name="db",
        flavor=flavor,
        volume_gb=volume_gb,
        datastore=None,
        version=None,
        databases=[],
        users=[],
        backup_ref=backup_ref,
        replica_of=None,
    )


@cache
def _empty_databases() -> Path:
    """A directory with the databases of a region and of identity, made once a test process: that takes its time."""
    directory = Path(tempfile.mkdtemp(prefix="snaphold-empty-"))
    atexit.register(shutil.rmtree, directory)
    with closing(open_catalog(directory / "catalog.db")) as catalog:
        Queue(catalog)
    open_identity_database(directory / "identity.db").close()
    return directory


def open_region(directory: Path, *, name: str = "DFW", **settings: float | str | list[str]) -> Region:
    """A region in this directory, with one host that has said hello; an identity without users lies beside it."""
    clock = Clock()
    for database in _empty_databases().iterdir():
        if not (directory / database.name).exists():
            shutil.copy(database, directory)
    catalog = open_catalog(directory / "catalog.db", clock)
    with catalog.writing() as tx:
        deployment_id = hosts.deployment_id(tx, name)
    deployment = Deployment(
        catalog=catalog,
        queue=Queue(catalog),
        settings=Settings.model_validate({"max_running_backups_per_account": 0, "rate_factor": 0, **settings}),
        region=name,
        deployment_id=deployment_id,
        store_gate=OpenGate(),
    )
    token = host_registry.add_host(deployment, "host")
    host_id = host_registry.authenticate_host(deployment, token)
    region = Region(deployment=deployment, clock=clock, host_id=host_id, token=token)
    region.hello()
    return region
