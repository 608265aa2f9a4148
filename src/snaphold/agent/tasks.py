"""Selects the work for each kind of task."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from snaphold.agent.backup import taken_backup
from snaphold.agent.consolidate import consolidated_backup
from snaphold.agent.context import TaskContext
from snaphold.agent.instances import (
    created_instance,
    deleted_instance,
    resized_instance,
    restarted_instance,
    started_instance,
    stopped_instance,
)
from snaphold.agent.lease import Lease
from snaphold.agent.restore import restored_instance
from snaphold.agent.verification import verified_backup
from snaphold.errors import Permanent
from snaphold.protocol import BackupResult, InstanceResult, Task, TaskKind, VerificationResult


class Outcome(TypedDict, total=False):
    """The part of a report that describes the result of a successful attempt."""

    backup: BackupResult
    instance: InstanceResult
    proof: VerificationResult


@contextmanager
def attempted(context: TaskContext, task: Task, lease: Lease) -> Iterator[Outcome]:
    """Perform a task. The body of the ``with`` reports it: if that raises ``Superseded``, the work is undone.

    Raises:
        Permanent, Transient: the attempt failed. It has left nothing, or only what the control plane will remove.
        Superseded: the attempt was abandoned; the same holds.
    """
    match task:
        case Task(kind=TaskKind.CREATE, instance=spec) if spec is not None:
            with created_instance(context, task, spec, lease) as instance:
                yield {"instance": instance}
        case Task(kind=TaskKind.RESTORE, instance=spec) if spec is not None and task.chain:
            with restored_instance(context, task, spec, lease) as instance:
                yield {"instance": instance}
        case Task(kind=TaskKind.BACKUP | TaskKind.CONSOLIDATE, backup=wanted) if wanted is not None:
            made = taken_backup if task.kind is TaskKind.BACKUP else consolidated_backup
            with made(context, task, wanted, lease) as backup:
                yield {"backup": backup}
        case Task(kind=TaskKind.RESTART, instance_id=str(instance_id), memory=memory) if memory is not None:
            with restarted_instance(context, instance_id, memory):
                yield {}
        case Task(kind=TaskKind.STOP, instance_id=str(instance_id)):
            with stopped_instance(context, instance_id):
                yield {}
        case Task(kind=TaskKind.START, instance_id=str(instance_id), memory=memory) if memory is not None:
            with started_instance(context, instance_id, memory):
                yield {}
        case Task(kind=TaskKind.RESIZE, instance_id=str(instance_id), memory=memory) if memory is not None:
            with resized_instance(context, instance_id, memory):
                yield {}
        case Task(kind=TaskKind.DELETE, instance_id=str(instance_id)):
            with deleted_instance(context, instance_id):
                yield {}
        case Task(kind=TaskKind.VERIFY) if task.chain:
            with verified_backup(context, task, lease) as proof:
                yield {"proof": proof}
        case _:
            raise Permanent(f"the task {task.kind} lacks something that this agent needs")
