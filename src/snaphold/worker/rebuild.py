"""Rebuilding the catalog: the rows of COMPLETED backups are made again from the manifests in the store.

Existing rows are kept as they are. Manifests of other deployments, and manifests that cannot be true, are reported and
left alone. Nothing in a store is written or removed, and nothing is swept afterwards until an operator permits it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from snaphold.catalog import backups, hosts, instances, tasks
from snaphold.catalog.database import Catalog, Transaction
from snaphold.errors import Damaged, ObjectMissing, Permanent
from snaphold.facts import completed_backup
from snaphold.formats.backup_facts import facts_of
from snaphold.formats.manifest import FORMAT, parse, sha256_of
from snaphold.model import (
    FLAVORS,
    SERVICE_ACCOUNT,
    Backup,
    BackupStatus,
    Instance,
    InstanceStatus,
)
from snaphold.objects import ObjectInfo, backup_of_manifest, manifest_name, object_prefix
from snaphold.service.deployment import Enqueuer
from snaphold.steps import Step, reached
from snaphold.store.base import ObjectStore, Stores
from snaphold.stream.verification import read_verification_record

_log = structlog.get_logger()

_DEPLOYMENT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")  # an id that is printed, and that an operator types
_MOST_BYTES: Final = 256 << 20  # of a manifest; one of 100 TB has a fifth of that
_MOST: Final = (1 << 63) - 1  # the largest number that a column holds
_SWEPT_US: Final = 24 * 3600 * 1_000_000  # before the rebuild: a sweep may have been due


@dataclass(frozen=True, kw_only=True)
class Told:
    """A manifest that was not taken into the catalog, and why.

    ``damaged``: it is of a backup of this deployment that is incomplete. ``deployment``: the other deployment that it
    names; None: it names this one, or none.
    """

    account: str
    name: str
    reason: str
    damaged: bool
    deployment: str | None = None


@dataclass(kw_only=True)
class Rebuilt:
    """The result of a rebuild.

    ``kept``: how many backups the catalog had already; ``recorded``: how many were COMPLETED before it began.
    """

    made: list[Backup] = field(default_factory=list)
    kept: int = 0
    recorded: int = 0
    told: list[Told] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether no backup of this deployment was found damaged."""
        return not any(one.damaged for one in self.told)

    @property
    def others(self) -> dict[str, int]:
        """The number of manifests of each other deployment, the largest number first."""
        return dict(Counter(one.deployment for one in self.told if one.deployment is not None).most_common())

    @property
    def fruitless(self) -> bool:
        """Whether no manifest in the store belongs to the catalog, although one of both has backups."""
        return bool(self.told or self.recorded) and not self.made and not self.kept

    def to_json(self, region: str, deployment_id: str) -> dict[str, Any]:
        """The result as printed."""
        return {
            "region": region,
            "deployment": deployment_id,
            "recorded_already": self.kept,
            "other_deployments": self.others,
            "made": [{"account": one.account, "id": one.id, "name": one.name} for one in self.made],
            "not_made": [
                {"account": one.account, "object": one.name, "reason": one.reason, "damaged": one.damaged}
                for one in self.told
            ],
            "sweep": "held until `snaphold catalog rebuild --done`",
        }


def rebuild(catalog: Catalog, stores: Stores, deployment_id: str, accounts: Iterable[str] | None = None) -> Rebuilt:
    """Add every complete backup of this deployment that the catalog lacks, parents before their increments.

    ``accounts`` None: every account that has a container. Each backup is added in a transaction of its own, so that
    requests are served meanwhile; after a crash, the next run adds the rest.

    Raises:
        Transient: a store does not answer.
        Unavailable: the catalog does not answer.
    """
    wanted = None if accounts is None else set(accounts)
    with catalog.writing() as tx:
        hosts.hold_sweep(tx)
        recorded = [backup for backup in backups.completed(tx, None) if wanted is None or backup.account in wanted]
    reached(Step.REBUILD_HELD)
    rebuilt = Rebuilt(recorded=len(recorded))
    for account in stores.accounts() if wanted is None else sorted(wanted):
        if account != SERVICE_ACCOUNT:
            _Container(catalog, stores.of(account), deployment_id, account, rebuilt).rebuild()
    _log.info("catalog.rebuilt", made=len(rebuilt.made), kept=rebuilt.kept, told=len(rebuilt.told))
    return rebuilt


def end_rebuild(catalog: Catalog, queue: Enqueuer) -> bool:
    """Resume sweeping, also of backups that have failed meanwhile; False if it was not held."""
    with catalog.writing() as tx:
        held_us = hosts.release_sweep(tx)
        if held_us is not None:
            for failed in backups.failed_since(tx, held_us - _SWEPT_US, tx.now_us):
                queue.enqueue(tx, "sweep_backup", failed.id)
    return held_us is not None


class _Refused(Exception):
    """The manifest is not taken into the catalog. ``damaged`` and ``deployment`` as in ``Told``."""

    def __init__(self, reason: str, *, damaged: bool, deployment: str | None = None) -> None:
        super().__init__(reason)
        self.damaged = damaged
        self.deployment = deployment


class _NoParent(_Refused):
    """The catalog does not have its parent, or not yet."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    name: str
    backup: Backup
    instance_id: str
    parent_sha256: str | None


class _Container:
    """The rebuild of one account's backups."""

    def __init__(
        self, catalog: Catalog, store: ObjectStore, deployment_id: str, account: str, rebuilt: Rebuilt
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._deployment_id = deployment_id
        self._account = account
        self._rebuilt = rebuilt

    def rebuild(self) -> None:
        """Add full backups as they are found, then increments whose parents were added, until no more can be added."""
        waiting = [candidate for candidate in self._candidates() if not self._take(candidate)]
        while True:
            left = [candidate for candidate in waiting if not self._take(candidate)]
            if len(left) == len(waiting):
                break
            waiting = left
        for candidate in waiting:
            parent = candidate.backup.parent_id
            self._tell(candidate.name, f"its parent {parent} has neither a record nor a whole manifest", damaged=True)

    def _candidates(self) -> Iterator[_Candidate]:
        for info in self._store.list(""):
            if backup_of_manifest(info.name) is not None:
                try:
                    yield self._read(info)
                except _Refused as refused:
                    self._tell(info.name, str(refused), damaged=refused.damaged, deployment=refused.deployment)
                except Permanent as error:
                    if not self._is_gone(info.name):
                        self._tell(info.name, str(error), damaged=True)

    def _is_gone(self, name: str) -> bool:
        """Whether a manifest was deleted after it was listed, so that its missing objects are no damage."""
        try:
            self._store.size(name)
        except ObjectMissing:
            return True
        return False

    def _read(self, info: ObjectInfo) -> _Candidate:
        """The backup of a manifest, once it was checked to be complete and of this deployment."""
        if info.size_bytes > _MOST_BYTES:
            raise Damaged(f"the manifest {info.name} is too long")
        document = b"".join(self._store.get(info.name))
        _refuse_others(document, self._deployment_id)
        manifest = parse(document, name=info.name)
        if (manifest_name(manifest.id), manifest.account) != (info.name, self._account):
            raise _Refused(f"it is of backup {manifest.id} of account {manifest.account}", damaged=True)
        for facts in (manifest.data, manifest.index):
            if not facts.name.startswith(object_prefix(manifest.id)):
                raise _Refused(f"it speaks of the object {facts.name}", damaged=True)
            size_bytes = self._store.size(facts.name)
            if size_bytes != facts.size_bytes:
                raise Damaged(f"{facts.name} has {size_bytes} bytes instead of {facts.size_bytes}")
        sha256 = sha256_of(document)
        try:
            verified = read_verification_record(self._store, manifest.id, sha256)
            backup = completed_backup(facts_of(manifest), sha256, verified)
        except (ValueError, OverflowError) as error:
            raise Damaged(f"the manifest {info.name} has a time that is none") from error
        if any(isinstance(value, int) and abs(value) > _MOST for value in vars(backup).values()):
            raise Damaged(f"the manifest {info.name} has a number that is too large")
        return _Candidate(
            name=info.name,
            backup=backup,
            instance_id=manifest.instance_id,
            parent_sha256=manifest.lineage.parent_manifest_sha256,
        )

    def _take(self, candidate: _Candidate) -> bool:
        """Add the backup, or report why not; False if its parent may still be added."""
        try:
            with self._catalog.reading() as tx:
                known = backups.get(tx, candidate.backup.id)
            if known is not None:
                made = _stands(known, candidate.backup)
            else:
                with self._catalog.writing() as tx:
                    made = _record(tx, candidate)
        except _NoParent:
            return False
        except _Refused as refused:
            self._tell(candidate.name, str(refused), damaged=refused.damaged)
            return True
        if made:
            reached(Step.REBUILD_RECORDED)
            _log.info("backup.rebuilt", backup=candidate.backup.id, account=self._account)
            self._rebuilt.made.append(candidate.backup)
        else:
            self._rebuilt.kept += 1
        return True

    def _tell(self, name: str, reason: str, *, damaged: bool, deployment: str | None = None) -> None:
        told = Told(account=self._account, name=name, reason=reason, damaged=damaged, deployment=deployment)
        self._rebuilt.told.append(told)


def _refuse_others(document: bytes, deployment_id: str) -> None:
    """Raise ``_Refused`` for a document that names another deployment, in any version of the format."""
    try:
        said = json.loads(document)
    except (ValueError, RecursionError):
        return
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise _Refused("it is no manifest", damaged=False)
    other = said.get("deployment")
    if other != deployment_id:
        known = other if isinstance(other, str) and _DEPLOYMENT.fullmatch(other) else None
        raise _Refused(f"it is of deployment {other}", damaged=False, deployment=known)


def _record(tx: Transaction, candidate: _Candidate) -> bool:
    """Insert the row of a backup, and one for its instance if that is missing; False if the catalog has the backup.

    1. An existing row of the backup is kept, and so is a task that is under way on it.
    2. The parent of an increment must be in the catalog, with the manifest that the increment was made on.

    Raises ``_Refused`` otherwise.
    """
    backup = candidate.backup
    known = backups.get(tx, backup.id)
    if known is not None:
        return _stands(known, backup)
    if tasks.has_open_of_backup(tx, backup.id):
        raise _Refused("work on it is under way", damaged=False)
    if backup.parent_id is not None:
        parent = backups.get(tx, backup.parent_id)
        if parent is None:
            raise _NoParent(backup.parent_id, damaged=True)
        if parent.account != backup.account or parent.manifest_sha256 != candidate.parent_sha256:
            raise _Refused(f"its parent {parent.id} is not the one that it was made on", damaged=True)
        if not parent.usable:
            raise _Refused(f"its parent {parent.id} is recorded as {_state(parent)}", damaged=False)
    if not backups.insert(tx, backup):
        raise _Refused("the catalog does not take its record", damaged=True)
    if backup.source_type == "instance" and instances.get(tx, candidate.instance_id) is None:
        instances.insert(tx, _gone_instance(tx, candidate))
    return True


def _stands(known: Backup, found: Backup) -> bool:
    """False if the row has this very manifest. Raises ``_Refused`` if it differs."""
    if known.account != found.account:
        raise _Refused("it is recorded as another account's backup", damaged=False)
    if known.status is not BackupStatus.COMPLETED or known.deleted_us is not None:
        raise _Refused(f"it is recorded as {_state(known)}", damaged=False)
    if known.manifest_sha256 != found.manifest_sha256:
        raise _Refused("it is not the manifest that was recorded when the backup completed", damaged=True)
    return False


def _state(backup: Backup) -> str:
    if backup.deleted_us is not None:
        return "deleted"
    return "being deleted" if backup.deleting else backup.status


def _gone_instance(tx: Transaction, candidate: _Candidate) -> Instance:
    """The instance of a backup: deleted and without a host, so that no host removes a server because of it."""
    backup = candidate.backup
    flavors = (flavor.id for flavor in FLAVORS.values() if flavor.ram_mb == backup.flavor_ram_mb)
    return Instance(
        id=candidate.instance_id,
        account=backup.account,
        name="",
        status=InstanceStatus.SHUTDOWN,
        deleting=True,
        host_id="",
        datastore=backup.datastore,
        version=backup.version,
        flavor_id=next(flavors, 1),
        volume_gb=backup.volume_gb,
        address=None,
        port=None,
        used_bytes=backup.size_bytes,
        running=False,
        reason=None,
        restored_from=None,
        created_us=backup.created_us,
        updated_us=tx.now_us,
        deleted_us=tx.now_us,
    )
