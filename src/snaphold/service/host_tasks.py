"""Giving hosts something to do."""

import uuid

from snaphold.catalog import tasks
from snaphold.catalog.database import Transaction
from snaphold.protocol import TaskKind
from snaphold.task_kinds import TASK_KINDS, Payload


def give_task(
    tx: Transaction,
    kind: TaskKind,
    payload: Payload,
    *,
    host_id: str,
    account: str,
    instance_id: str | None = None,
    backup_id: str | None = None,
) -> None:
    """Insert a task for a host, in the transaction that asks for it; notify the host once it is committed.

    ``instance_id``: the instance that the task is about; a host works on one task of an instance at a time.
    """
    tasks.insert(
        tx,
        task_id=str(uuid.uuid4()),
        kind=kind,
        host_id=host_id,
        account=account,
        instance_id=instance_id,
        backup_id=backup_id,
        payload=TASK_KINDS[kind].stored(payload),
    )
