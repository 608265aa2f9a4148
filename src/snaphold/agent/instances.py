"""What an agent is given to do with instances, from create to delete. (Restoring is in restore.py.)

Each is a context manager around the report: what was made stands only when the API accepts it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.errors import Permanent, Superseded
from snaphold.protocol import InstanceResult, InstanceSpec, Memory, Task
from snaphold.steps import Step, reached


@contextmanager
def created_instance(context: TaskContext, task: Task, spec: InstanceSpec, lease: Lease) -> Iterator[InstanceResult]:
    """Build a new server.

    A crash leaves a half-made instance, which ``clear_leftovers`` removes, or a whole one that the API calls absent.
    """
    reached(Step.CREATE_CLAIMED)
    lease.tell(step="building")
    result = context.servers.create(spec, task.attempt)
    reached(Step.CREATE_BUILT)
    with removed_when_superseded(context, spec.id):
        yield result


@contextmanager
def restarted_instance(context: TaskContext, instance_id: str, memory: Memory) -> Iterator[None]:
    """End a server and start it again. It may be done twice."""
    reached(Step.RESTART_CLAIMED)
    context.servers.stop(instance_id)
    reached(Step.RESTART_STOPPED)
    context.servers.note_memory(instance_id, memory.ram_mb)
    context.servers.start(instance_id)
    reached(Step.RESTART_STARTED)
    yield


@contextmanager
def stopped_instance(context: TaskContext, instance_id: str) -> Iterator[None]:
    """End a server; its data stays. It may be done twice."""
    reached(Step.STOP_CLAIMED)
    context.servers.stop(instance_id)
    reached(Step.STOP_STOPPED)
    yield


@contextmanager
def started_instance(context: TaskContext, instance_id: str, memory: Memory) -> Iterator[None]:
    """Start a server that was stopped. It may be done twice."""
    reached(Step.START_CLAIMED)
    context.servers.note_memory(instance_id, memory.ram_mb)
    context.servers.start(instance_id)
    reached(Step.START_STARTED)
    yield


@contextmanager
def resized_instance(context: TaskContext, instance_id: str, memory: Memory) -> Iterator[None]:
    """Start a server anew with other memory. It may be done twice.

    One that does not start with it, and one whose attempt was abandoned, gets back what it had, and runs with that.
    """
    reached(Step.RESIZE_CLAIMED)
    try:
        context.servers.stop(instance_id)
        reached(Step.RESIZE_STOPPED)
        context.servers.note_memory(instance_id, memory.ram_mb)
        reached(Step.RESIZE_NOTED)
        context.servers.start(instance_id)
        reached(Step.RESIZE_STARTED)
        yield
    except (Superseded, Permanent):
        context.servers.stop(instance_id)
        context.servers.note_memory(instance_id, memory.former_ram_mb)
        context.servers.start(instance_id)
        raise


@contextmanager
def deleted_instance(context: TaskContext, instance_id: str) -> Iterator[None]:
    """Remove a server and its data. It may be done twice."""
    reached(Step.DELETE_CLAIMED)
    context.servers.delete(instance_id)
    reached(Step.DELETE_REMOVED)
    yield


@contextmanager
def removed_when_superseded(context: TaskContext, instance_id: str) -> Iterator[None]:
    """Nobody wants the instance of an attempt that was abandoned."""
    try:
        yield
    except Superseded:
        context.servers.delete(instance_id)
        raise
