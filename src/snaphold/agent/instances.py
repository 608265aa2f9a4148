"""What an agent is given to do with instances: create, restart, delete. (Restoring is in restore.py.)

Each is a context manager around the report: what was made stands only when the API accepts it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from snaphold.agent.lease import Lease
from snaphold.agent.room import Room
from snaphold.errors import Overtaken
from snaphold.protocol import InstanceResult, InstanceSpec, Task
from snaphold.steps import Step, reached


@contextmanager
def created_instance(room: Room, task: Task, spec: InstanceSpec, lease: Lease) -> Iterator[InstanceResult]:
    """Build a new server.

    A crash leaves a half-made instance, which ``clear_leftovers`` removes, or a whole one that the API calls absent.
    """
    reached(Step.CREATE_CLAIMED)
    lease.tell(step="building")
    result = room.servers.create(spec, task.attempt)
    reached(Step.CREATE_BUILT)
    with removed_when_overtaken(room, spec.id):
        yield result


@contextmanager
def restarted_instance(room: Room, instance_id: str) -> Iterator[None]:
    """End a server and start it again. It may be done twice."""
    reached(Step.RESTART_CLAIMED)
    room.servers.stop(instance_id)
    reached(Step.RESTART_STOPPED)
    room.servers.start(instance_id)
    reached(Step.RESTART_STARTED)
    yield


@contextmanager
def deleted_instance(room: Room, instance_id: str) -> Iterator[None]:
    """Remove a server and its data. It may be done twice."""
    reached(Step.DELETE_CLAIMED)
    room.servers.delete(instance_id)
    reached(Step.DELETE_REMOVED)
    yield


@contextmanager
def removed_when_overtaken(room: Room, instance_id: str) -> Iterator[None]:
    """Nobody wants the instance of an attempt that was given up."""
    try:
        yield
    except Overtaken:
        room.servers.delete(instance_id)
        raise
