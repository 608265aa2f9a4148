"""A chain of backups in the store: found through its manifests, checked, and laid down as files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from snaphold.agent.lease import Lease
from snaphold.agent.room import Room
from snaphold.errors import Damaged, Permanent
from snaphold.host.servers import Staging
from snaphold.protocol import ChainLink
from snaphold.store.base import ObjectStore, Stores
from snaphold.stream.extract import extract_backup
from snaphold.stream.manifest import Manifest, load


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The manifests of a backup and of all that it stands on, the full one first; each was trusted by its hash."""

    store: ObjectStore
    manifests: list[Manifest]

    @classmethod
    def opened(cls, stores: Stores, links: list[ChainLink]) -> Self:
        """Read the manifests, and look whether their objects are there: before anything else is touched.

        Raises:
            ObjectMissing, Damaged: an object is gone or is not what was recorded; the message names it.
            Permanent: the chain cannot be restored by this agent.
        """
        if len(links) != 1:
            raise Permanent("this agent restores full backups only")
        store = stores.of(links[0].account)
        return cls(store=store, manifests=[_checked(store, link) for link in links])

    @property
    def newest(self) -> Manifest:
        """The backup itself."""
        return self.manifests[-1]

    @property
    def stream_bytes(self) -> int:
        """What has to be read, decompressed."""
        return sum(manifest.stream_bytes for manifest in self.manifests)

    def refuse_other_versions(self, datastore: str, version: str) -> None:
        """Raise ``Permanent`` unless the backup is of this datastore and version."""
        of = self.newest.datastore
        if (of.type, of.version) != (datastore, version):
            raise Permanent(f"the backup is of {of.type} {of.version}, the instance is to be {datastore} {version}")

    def refuse_small_disk(self, directory: Path) -> None:
        """Raise ``Permanent`` when the files cannot fit there: known before the first byte is fetched."""
        facts = os.statvfs(directory)
        free_bytes = facts.f_bavail * facts.f_frsize
        if free_bytes < self.stream_bytes:
            raise Permanent(
                f"the backup needs {self.stream_bytes} bytes, but the disk of its host has only {free_bytes} free"
            )

    def lay_down(self, room: Room, staging: Staging, lease: Lease) -> None:
        """Write the files of the backup into an empty directory, unprepared. Raises as ``extract_backup`` does."""
        extract_backup(
            self.newest,
            self.store,
            staging.directory,
            uid=staging.uid,
            gid=staging.gid,
            threads=room.settings.compression_threads,
            on_progress=lambda count: lease.tell(done_bytes=count),
            stop=lease.stop,
        )


def _checked(store: ObjectStore, link: ChainLink) -> Manifest:
    name = f"{link.backup_id}.json"
    manifest = load(b"".join(store.get(name)), name=name, sha256=link.manifest_sha256)
    if manifest.id != link.backup_id or manifest.account != link.account or manifest.parent_id is not None:
        raise Damaged(f"the manifest {name} is of another backup")
    size_bytes = store.size(manifest.data.name)
    if size_bytes != manifest.data.size_bytes:
        raise Damaged(f"{manifest.data.name} has {size_bytes} bytes instead of {manifest.data.size_bytes}")
    return manifest
