"""Consolidates a chain into a full backup, from the stored objects alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from snaphold.agent.chain import Chain
from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.agent.publishing import Publishing
from snaphold.errors import Permanent, Superseded
from snaphold.formats.manifest import DatastoreFacts
from snaphold.formats.xbstream import XbstreamReader
from snaphold.formats.xbstream_writer import TreeStream
from snaphold.host.provisioning import Staging
from snaphold.model import MB
from snaphold.protocol import BackupResult, BackupSpec, InstanceSpec, Task
from snaphold.steps import Step, reached
from snaphold.stream.segments import Written, write_backup

_log = structlog.get_logger(__name__)


@contextmanager
def consolidated_backup(context: TaskContext, task: Task, spec: BackupSpec, lease: Lease) -> Iterator[BackupResult]:
    """Merge the task's chain into a full backup of the same state; the body of the ``with`` reports it.

    ``spec`` describes the new backup; source and instance are those of the old one. No database server takes part: the
    pages of all backups are merged in a directory of this host, are not prepared, and are streamed from there. So
    increments can be taken on the new backup as on the old one.

    An attempt that fails or is superseded leaves nothing in the store or on the host. A crash leaves objects, which the
    control plane removes, and an incomplete instance, which ``clear_leftovers`` removes.

    Raises:
        ObjectMissing, Damaged: a backup of the chain is damaged.
        Permanent: the increments cannot be merged, or the disk has too little space for the files.
    """
    publishing = Publishing(context, task, spec, lease)
    try:
        result = _consolidate(context, task, spec, lease, publishing)
    except BaseException:
        publishing.undo()
        raise
    try:
        yield result
    except Superseded:
        publishing.undo()
        raise
    reached(Step.CONSOLIDATE_REPORTED)


def _consolidate(
    context: TaskContext, task: Task, spec: BackupSpec, lease: Lease, publishing: Publishing
) -> BackupResult:
    reached(Step.CONSOLIDATE_CLAIMED)
    lease.tell(step="checking")
    chain = Chain.opened(context.stores, task.chain)
    if not chain.overlays:
        raise Permanent("the chain was not taken by this service: its increments can only be restored, not merged")
    newest = chain.newest
    reached(Step.CONSOLIDATE_CHECKED)
    try:
        staging = context.servers.staging(_place(spec, newest.datastore), task.attempt)
        chain.refuse_small_disk(staging.directory)
        lease.tell(step="merging", size_bytes=newest.size_bytes, done_bytes=0, expected_bytes=chain.stream_bytes)
        context.low_priority(chain.materialize, context, staging, lease)
        reached(Step.CONSOLIDATE_LAID)
        lease.tell(step="writing", done_bytes=0, expected_bytes=newest.size_bytes)
        written = context.low_priority(_write, context, staging, lease, publishing)
    finally:
        context.servers.discard_attempt(spec.id, task.attempt)
    reached(Step.CONSOLIDATE_SEGMENTS_WRITTEN)
    _log.info("chain.merged", backup=newest.id, depth=len(chain.manifests))
    return publishing.publish(
        written,
        newest.lineage.model_copy(update={"from_lsn": None, "parent_manifest_sha256": None}),
        newest.datastore,
        chain=[],
        size_bytes=newest.size_bytes,
        made="consolidated",
        made_from=newest.id,
    )


class _Merged(XbstreamReader):
    """Reads a stream that blocks no client of a server, whatever files it contains."""

    writers_wait = commits_wait = False


def _write(context: TaskContext, staging: Staging, lease: Lease, publishing: Publishing) -> Written:
    """Stream the files of a directory into the store; each file is removed once it has been read."""
    settings = context.settings
    with TreeStream(staging.directory) as stream:
        return write_backup(
            stream.readinto,
            publishing.store,
            publishing.prefix,
            codec=settings.codec,
            level=settings.compression_level,
            threads=settings.compression_threads,
            max_bytes_per_s=settings.max_backup_mb_per_s * MB,
            watch=_Merged(),
            kill=stream.kill,
            on_progress=lambda count: lease.tell(done_bytes=count),
            stop=lease.stop,
        )


def _place(spec: BackupSpec, datastore: DatastoreFacts) -> InstanceSpec:
    """The staging directory's instance: it is never completed, and has a system user of its own."""
    return InstanceSpec(
        id=spec.id,
        account=spec.account,
        name=spec.name,
        datastore=datastore.type,
        version=datastore.version,
        ram_mb=spec.flavor_ram_mb,
        volume_gb=spec.volume_gb,
    )
