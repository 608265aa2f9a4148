"""Restoring: from the account's store to a running server, nothing unverified on the way."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from snaphold.agent.chain import Chain
from snaphold.agent.instances import removed_when_overtaken
from snaphold.agent.lease import Lease
from snaphold.agent.room import Room
from snaphold.protocol import InstanceResult, InstanceSpec, Task
from snaphold.steps import Step, reached

_log = structlog.get_logger(__name__)


@contextmanager
def restored_instance(room: Room, task: Task, spec: InstanceSpec, lease: Lease) -> Iterator[InstanceResult]:
    """Make a new server from a backup; the body of the ``with`` reports it.

    What fails here, or is overtaken, leaves nothing on this host. A crash leaves a half-made instance, which
    ``clear_leftovers`` removes, or a whole one that the API calls absent.
    """
    reached(Step.RESTORE_CLAIMED)
    lease.tell(step="checking")
    chain = Chain.opened(room.stores, task.chain)
    chain.refuse_other_versions(spec.datastore, spec.version)
    reached(Step.RESTORE_CHECKED)
    try:
        staging = room.servers.staging(spec, task.attempt)
        chain.refuse_small_disk(staging.directory)
        reached(Step.RESTORE_STAGED)
        lease.tell(step="extracting", done_bytes=0, expected_bytes=chain.stream_bytes)
        room.nicely(chain.lay_down, room, staging, lease)
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
    _log.info("backup restored", backup=chain.newest.id, address=result.address, used_bytes=result.used_bytes)
    with removed_when_overtaken(room, spec.id):
        yield result
    reached(Step.RESTORE_REPORTED)
