"""The tasks of instances, from create to delete. (restore.py has the restore.)

Each is a context manager around the report: its result is only kept when the API accepts the report.
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
    """Create a new server.

    A crash leaves an incomplete instance, which ``clear_leftovers`` removes, or a complete one whose desired state is
    "absent".
    """
    reached(Step.CREATE_CLAIMED)
    lease.tell(step="building")
    result = context.servers.create(spec, task.attempt)
    reached(Step.CREATE_BUILT)
    with removed_when_superseded(context, spec.id):
        yield result


@contextmanager
def restarted_instance(context: TaskContext, instance_id: str, memory: Memory) -> Iterator[None]:
    """Stop a server and start it again. It is idempotent."""
    reached(Step.RESTART_CLAIMED)
    context.servers.stop(instance_id)
    reached(Step.RESTART_STOPPED)
    context.servers.note_memory(instance_id, memory.ram_mb)
    context.servers.start(instance_id)
    reached(Step.RESTART_STARTED)
    yield


@contextmanager
def stopped_instance(context: TaskContext, instance_id: str) -> Iterator[None]:
    """Stop a server; its data stays. It is idempotent."""
    reached(Step.STOP_CLAIMED)
    context.servers.stop(instance_id)
    reached(Step.STOP_STOPPED)
    yield


@contextmanager
def started_instance(context: TaskContext, instance_id: str, memory: Memory) -> Iterator[None]:
    """Start a server that was stopped. It is idempotent."""
    reached(Step.START_CLAIMED)
    context.servers.note_memory(instance_id, memory.ram_mb)
    context.servers.start(instance_id)
    reached(Step.START_STARTED)
    yield


@contextmanager
def resized_instance(context: TaskContext, instance_id: str, memory: Memory) -> Iterator[None]:
    """Restart a server with another amount of memory. It is idempotent.

    If the server does not start, or the attempt was abandoned, the server gets its former memory and runs with that.
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
    """Remove a server and its data. It is idempotent."""
    reached(Step.DELETE_CLAIMED)
    context.servers.delete(instance_id)
    reached(Step.DELETE_REMOVED)
    yield


@contextmanager
def removed_when_superseded(context: TaskContext, instance_id: str) -> Iterator[None]:
    """Delete the instance when the body raises ``Superseded``: the attempt that made it was abandoned."""
    try:
        yield
    except Superseded:
        context.servers.delete(instance_id)
        raise
