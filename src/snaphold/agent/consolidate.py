"""Consolidating: a chain becomes a full backup of its own, made from the objects alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from snaphold.agent.backup import MEGABYTE
from snaphold.agent.chain import Chain
from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.agent.publishing import Publishing
from snaphold.errors import Permanent, Superseded
from snaphold.formats.manifest import DatastoreFacts
from snaphold.formats.xbstream import XbstreamReader
from snaphold.formats.xbstream_writer import TreeStream
from snaphold.host.provisioning import Staging
from snaphold.protocol import BackupResult, BackupSpec, InstanceSpec, Task
from snaphold.steps import Step, reached
from snaphold.stream.segments import Written, write_backup

_log = structlog.get_logger(__name__)


@contextmanager
def consolidated_backup(context: TaskContext, task: Task, spec: BackupSpec, lease: Lease) -> Iterator[BackupResult]:
    """Merge the task's chain into a full backup of the same moment; the body of the ``with`` reports it.

    ``spec`` is the new backup's, with the source and the instance of the old one. No database is touched: the pages
    are laid over each other in a directory of this host, unprepared, and streamed from there; so increments can be
    taken on the new backup as on the old one.

    What fails here, or is superseded, leaves nothing in the store, nor on the host. A crash leaves objects that the
    control plane sweeps, and a half-made instance that ``clear_leftovers`` removes.

    Raises:
        ObjectMissing, Damaged: the chain is not whole.
        Permanent: its increments must be applied in turn, or the disk has no room for the files.
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
        raise Permanent("the chain was not taken by this service: its increments cannot be merged, only restored")
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
    _log.info("chain merged", backup=newest.id, depth=len(chain.manifests))
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
    """Looks at a stream that nobody waits for, whatever files are in it."""

    writers_wait = commits_wait = False


def _write(context: TaskContext, staging: Staging, lease: Lease, publishing: Publishing) -> Written:
    """Stream the files of a directory into the store, each gone once it is read."""
    settings = context.settings
    with TreeStream(staging.directory) as stream:
        return write_backup(
            stream.readinto,
            publishing.store,
            publishing.prefix,
            codec=settings.codec,
            level=settings.compression_level,
            threads=settings.compression_threads,
            max_bytes_per_s=settings.max_backup_mb_per_s * MEGABYTE,
            watch=_Merged(),
            kill=stream.kill,
            on_progress=lambda count: lease.tell(done_bytes=count),
            stop=lease.stop,
        )


def _place(spec: BackupSpec, datastore: DatastoreFacts) -> InstanceSpec:
    """Where the files lie meanwhile: as those of an instance that is never built, with a system user of its own."""
    return InstanceSpec(
        id=spec.id,
        account=spec.account,
        name=spec.name,
        datastore=datastore.type,
        version=datastore.version,
        ram_mb=spec.flavor_ram_mb,
        volume_gb=spec.volume_gb,
    )
