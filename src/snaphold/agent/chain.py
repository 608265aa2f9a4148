"""Opens a chain of backups in the store, checks it, and writes it out as files."""

import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.disk import Owner, make_directory
from snaphold.errors import Damaged, Permanent
from snaphold.formats.manifest import Manifest, load
from snaphold.host.provisioning import Staging
from snaphold.objects import manifest_name
from snaphold.protocol import ChainLink
from snaphold.store.base import ObjectStore, Stores
from snaphold.stream.extract import extract_backup
from snaphold.stream.segments import check_length


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The manifests of a backup and of its ancestors, the full backup first. Each matched its recorded hash."""

    store: ObjectStore
    manifests: list[Manifest]

    @classmethod
    def opened(cls, stores: Stores, links: list[ChainLink]) -> Self:
        """Read the manifests and check that their data objects exist, before anything else is done.

        Raises:
            ObjectMissing, Damaged: an object is missing, differs from its record, or belongs to a backup that was not
                made from the one before it; the message names it.
        """
        if not links:
            raise Permanent("the task names no backup")
        store = stores.of(links[0].account)
        manifests = [_checked(store, link) for link in links]
        if manifests[0].parent_id is not None:
            raise Damaged(f"the chain of {manifests[-1].id} begins with {manifests[0].id}, which is not a full backup")
        for parent, child, link in zip(manifests, manifests[1:], links, strict=False):
            _check_lineage(parent, child, link)
        return cls(store=store, manifests=manifests)

    @property
    def newest(self) -> Manifest:
        """The backup itself."""
        return self.manifests[-1]

    @property
    def stream_bytes(self) -> int:
        """How many bytes the streams of all backups have, decompressed."""
        return sum(manifest.stream_bytes for manifest in self.manifests)

    @property
    def overlays(self) -> bool:
        """Whether each increment starts at its parent's start checkpoint, or at an earlier position.

        Only then does it contain every change in its parent's redo log, so that the pages can be merged
        (:mod:`snaphold.formats.overlay`). Other increments, such as those that people take with the tool alone, are
        applied one after the other.
        """
        return all(
            parent.lineage.checkpoint_lsn is not None
            and child.lineage.from_lsn is not None
            and child.lineage.from_lsn <= parent.lineage.checkpoint_lsn
            for parent, child in itertools.pairwise(self.manifests)
        )

    def refuse_other_versions(self, datastore: str, version: str) -> None:
        """Raise ``Permanent`` unless the backup is of this datastore and version."""
        of = self.newest.datastore
        if (of.type, of.version) != (datastore, version):
            raise Permanent(f"the backup is of {of.type} {of.version}, but the instance is to be {datastore} {version}")

    def refuse_small_disk(self, directory: Path) -> None:
        """Raise ``Permanent`` when the disk is too small for the files, before the first byte is fetched.

        A full backup needs as much as its stream. A merged chain needs about what its source used, because every page
        is written once. Increments that are applied one after the other also need room for the largest of them.
        """
        full, *increments = self.manifests
        needed_bytes = full.stream_bytes if not increments else self.newest.size_bytes
        if not self.overlays:
            needed_bytes = max(manifest.size_bytes for manifest in self.manifests)
            needed_bytes += max(manifest.stream_bytes for manifest in increments)
        facts = os.statvfs(directory)
        free_bytes = facts.f_bavail * facts.f_frsize
        if free_bytes < needed_bytes:
            raise Permanent(
                f"the backup needs {needed_bytes} bytes, but the disk of its host has only {free_bytes} free"
            )

    def materialize(self, context: TaskContext, staging: Staging, lease: Lease) -> None:
        """Write the files of the backup into an empty directory. They are complete after one ``Engine.prepare``.

        Raises as ``extract_backup`` does.
        """
        way = self.overlay if self.overlays else self.apply_in_turn
        way(context, staging, lease)

    def overlay(self, context: TaskContext, staging: Staging, lease: Lease) -> None:
        """Merge the pages of all backups. The result is the files of one full backup, unprepared."""
        self._extract(self.manifests, staging.directory, context, staging, lease)

    def apply_in_turn(self, context: TaskContext, staging: Staging, lease: Lease) -> None:
        """Have the tool apply one increment after the other, each from a directory next to the staging directory."""
        engine = context.engines.of(self.newest.datastore.type, self.newest.datastore.version)
        owner = None if staging.uid is None or staging.gid is None else Owner(uid=staging.uid, gid=staging.gid)
        rights = {"uid": staging.uid, "gid": staging.gid}
        full, *increments = self.manifests
        self._extract([full], staging.directory, context, staging, lease)
        engine.prepare(staging.directory, **rights, memory_bytes=staging.memory_bytes, stop=lease.stop)
        done_bytes = full.stream_bytes
        for manifest in increments:
            beside = staging.directory.with_name(f"{staging.directory.name}.increment")
            make_directory(beside, owner=owner)
            try:
                self._extract([manifest], beside, context, staging, lease, done_bytes=done_bytes)
                engine.apply(staging.directory, beside, **rights, memory_bytes=staging.memory_bytes, stop=lease.stop)
            finally:
                shutil.rmtree(beside)
            done_bytes += manifest.stream_bytes

    def _extract(
        self,
        manifests: list[Manifest],
        directory: Path,
        context: TaskContext,
        staging: Staging,
        lease: Lease,
        *,
        done_bytes: int = 0,
    ) -> None:
        """Extract these backups into a directory. ``done_bytes``: the progress before."""
        extract_backup(
            manifests,
            self.store,
            directory,
            uid=staging.uid,
            gid=staging.gid,
            threads=context.settings.compression_threads,
            on_progress=lambda count: lease.tell(done_bytes=done_bytes + count),
            stop=lease.stop,
        )


def _checked(store: ObjectStore, link: ChainLink) -> Manifest:
    """The manifest of a backup whose data object exists. Raises ``ObjectMissing``, ``Damaged``."""
    name = manifest_name(link.backup_id)
    manifest = load(b"".join(store.get(name)), name=name, sha256=link.manifest_sha256)
    if manifest.id != link.backup_id or manifest.account != link.account:
        raise Damaged(f"the manifest {name} is of another backup")
    check_length(manifest, store)
    return manifest


def _check_lineage(parent: Manifest, child: Manifest, link: ChainLink) -> None:
    """Raise ``Damaged`` unless the child was made from this parent. ``link``: the parent's."""
    if child.parent_id != parent.id or child.lineage.parent_manifest_sha256 != link.manifest_sha256:
        raise Damaged(f"the backup {child.id} was not made from {parent.id}, the backup before it in the chain")
    same_data = child.lineage.incarnation == parent.lineage.incarnation
    if not same_data or (child.datastore.type, child.datastore.version) != (
        parent.datastore.type,
        parent.datastore.version,
    ):
        raise Damaged(f"the backup {child.id} is of another database than its parent {parent.id}")
