"""Restores a backup: from the account's store to a running server. Every byte is verified on the way."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from snaphold.agent.chain import Chain
from snaphold.agent.context import TaskContext
from snaphold.agent.instances import removed_when_superseded
from snaphold.agent.lease import Lease
from snaphold.errors import Damaged, Permanent
from snaphold.protocol import InstanceResult, InstanceSpec, Task
from snaphold.steps import Step, reached

_log = structlog.get_logger(__name__)


@contextmanager
def restored_instance(context: TaskContext, task: Task, spec: InstanceSpec, lease: Lease) -> Iterator[InstanceResult]:
    """Create a new server from a backup; the body of the ``with`` reports it.

    An attempt that fails or is superseded leaves nothing on this host. A crash leaves an incomplete instance, which
    ``clear_leftovers`` removes, or a complete one whose desired state is "absent".
    """
    reached(Step.RESTORE_CLAIMED)
    lease.tell(step="checking")
    chain = Chain.opened(context.stores, task.chain)
    chain.refuse_other_versions(spec.datastore, spec.version)
    reached(Step.RESTORE_CHECKED)
    try:
        staging = context.servers.staging(spec, task.attempt)
        chain.refuse_small_disk(staging.directory)
        reached(Step.RESTORE_STAGED)
        lease.tell(step="extracting", done_bytes=0, expected_bytes=chain.stream_bytes)
        context.low_priority(chain.materialize, context, staging, lease)
        reached(Step.RESTORE_EXTRACTED)
        lease.tell(step="preparing")
        context.engines.of(spec.datastore, spec.version).prepare(
            staging.directory,
            uid=staging.uid,
            gid=staging.gid,
            memory_bytes=staging.memory_bytes,
            stop=lease.stop,
        )
        reached(Step.RESTORE_PREPARED)
        lease.check()
        lease.tell(step="starting")
        result = context.servers.finish_restore(spec, task.attempt)
        reached(Step.RESTORE_FINISHED)
    except BaseException:
        context.servers.discard_attempt(spec.id, task.attempt)
        raise
    if not chain.overlays:
        _check_tables(context, spec, lease)
    _log.info("backup.restored", backup=chain.newest.id, address=result.address, used_bytes=result.used_bytes)
    with removed_when_superseded(context, spec.id):
        yield result
    reached(Step.RESTORE_REPORTED)


def _check_tables(context: TaskContext, spec: InstanceSpec, lease: Lease) -> None:
    """Have the new server check every table. If one is not sound, delete the instance and raise ``Permanent``.

    This is needed when the tool applies increments one after the other: it reports success although it loses the older
    pages of a table that was being created or rebuilt when one of the backups ended.
    """
    lease.tell(step="checking tables")
    try:
        context.engines.of(spec.datastore, spec.version).check_tables(
            context.servers.access(spec.id).administer, lease.check
        )
    except BaseException as error:
        context.servers.delete(spec.id)
        if isinstance(error, Damaged):
            raise Permanent(f"the backup tool did not apply the increments completely: {error}") from error
        raise
