"""Restoring: from the account's store to a running server, nothing unverified on the way."""

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
    """Make a new server from a backup; the body of the ``with`` reports it.

    What fails here, or is superseded, leaves nothing on this host. A crash leaves a half-made instance, which
    ``clear_leftovers`` removes, or a whole one that the API calls absent.
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
        _insist_on_sound_tables(context, spec, lease)
    _log.info("backup restored", backup=chain.newest.id, address=result.address, used_bytes=result.used_bytes)
    with removed_when_superseded(context, spec.id):
        yield result
    reached(Step.RESTORE_REPORTED)


def _insist_on_sound_tables(context: TaskContext, spec: InstanceSpec, lease: Lease) -> None:
    """Have the new server check every table; where one is not sound, nothing of the instance stays.

    The tool calls it complete when it applies increments in turn, also where a table was being made or rebuilt when
    one of them ended: it loses the pages from before. Raises ``Permanent``.
    """
    lease.tell(step="checking tables")
    try:
        context.engines.of(spec.datastore, spec.version).check_tables(
            context.servers.access(spec.id).administer, lease.check
        )
    except BaseException as error:
        context.servers.delete(spec.id)
        if isinstance(error, Damaged):
            raise Permanent(f"the tool did not bring the increments back in turn: {error}") from error
        raise
