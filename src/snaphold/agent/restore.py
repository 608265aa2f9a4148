"""Restoring: from the account's store to a running server, nothing unverified on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from snaphold.agent.instances import removed_when_overtaken
from snaphold.agent.lease import Lease
from snaphold.agent.room import Room, nicely
from snaphold.errors import Damaged, Permanent
from snaphold.host.servers import Staging
from snaphold.protocol import ChainLink, InstanceResult, InstanceSpec, Task
from snaphold.steps import Step, reached
from snaphold.store.base import ObjectStore
from snaphold.stream.extract import extract_backup
from snaphold.stream.manifest import Manifest, load

_log = structlog.get_logger(__name__)


@contextmanager
def restored_instance(room: Room, task: Task, spec: InstanceSpec, lease: Lease) -> Iterator[InstanceResult]:
    """Make a new server from a backup; the body of the ``with`` reports it.

    What fails here, or is overtaken, leaves nothing on this host. A crash leaves a half-made instance, which
    ``clear_leftovers`` removes, or a whole one that the API calls absent.
    """
    reached(Step.RESTORE_CLAIMED)
    lease.tell(step="checking")
    store, manifest = _checked(room, task.chain, spec)
    reached(Step.RESTORE_CHECKED)
    try:
        staging = room.servers.staging(spec, task.attempt)
        _check_space(staging, manifest)
        reached(Step.RESTORE_STAGED)
        lease.tell(step="extracting", done_bytes=0, expected_bytes=manifest.stream_bytes)
        nicely(_extract, room, store, manifest, staging, lease)
        reached(Step.RESTORE_EXTRACTED)
        lease.tell(step="preparing")
        room.engines[spec.datastore].prepare(
            staging.directory,
            uid=staging.uid,
            gid=staging.gid,
            memory_bytes=staging.memory_bytes,
            stop=lease.stop,
        )
        reached(Step.RESTORE_PREPARED)
        lease.check()
        lease.tell(step="starting")
        result = room.servers.finish_restore(spec, task.attempt)
        reached(Step.RESTORE_FINISHED)
    except BaseException:
        room.servers.discard_attempt(spec.id, task.attempt)
        raise
    _log.info("backup restored", backup=manifest.id, address=result.address, used_bytes=result.used_bytes)
    with removed_when_overtaken(room, task):
        yield result
    reached(Step.RESTORE_REPORTED)


def _checked(room: Room, chain: list[ChainLink], spec: InstanceSpec) -> tuple[ObjectStore, Manifest]:
    """The backup's manifest, trusted by its recorded hash, and its objects' sizes: before a server is touched.

    Raises:
        ObjectMissing, Damaged: an object is gone or is not what was recorded; the message names it.
        Permanent: the backup cannot be restored by this agent.
    """
    if len(chain) != 1:
        raise Permanent("this agent restores full backups only")
    link = chain[0]
    store = room.stores.of(link.account)
    name = f"{link.backup_id}.json"
    manifest = load(b"".join(store.get(name)), name=name, sha256=link.manifest_sha256)
    if manifest.id != link.backup_id or manifest.account != link.account or manifest.parent_id is not None:
        raise Damaged(f"the manifest {name} is of another backup")
    size_bytes = store.size(manifest.data.name)
    if size_bytes != manifest.data.size_bytes:
        raise Damaged(f"{manifest.data.name} has {size_bytes} bytes instead of {manifest.data.size_bytes}")
    if (manifest.datastore.type, manifest.datastore.version) != (spec.datastore, spec.version):
        of, wanted = manifest.datastore, f"{spec.datastore} {spec.version}"
        raise Permanent(f"the backup is of {of.type} {of.version}, the instance is to be {wanted}")
    return store, manifest


def _check_space(staging: Staging, manifest: Manifest) -> None:
    """Raise ``Permanent`` when the files cannot fit: known before the first byte is fetched."""
    facts = os.statvfs(staging.directory)
    free_bytes = facts.f_bavail * facts.f_frsize
    if free_bytes < manifest.stream_bytes:
        raise Permanent(
            f"the backup needs {manifest.stream_bytes} bytes, but the disk of its host has only {free_bytes} free"
        )


def _extract(room: Room, store: ObjectStore, manifest: Manifest, staging: Staging, lease: Lease) -> None:
    extract_backup(
        manifest,
        store,
        staging.directory,
        uid=staging.uid,
        gid=staging.gid,
        threads=room.settings.compression_threads,
        on_progress=lambda count: lease.tell(done_bytes=count),
        stop=lease.stop,
    )
