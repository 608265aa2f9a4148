"""Availability: whether an instance is free for an action, and whether its host can be reached."""

from typing import Any

from snaphold.catalog import hosts, instances, tasks
from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.errors import Unavailable, Unprocessable
from snaphold.model import Host, Instance, InstanceStatus
from snaphold.service.deployment import Deployment


def unavailable_for_action(instance_id: str, status: InstanceStatus) -> Unprocessable:
    """The refusal of an action that needs a free instance (contract, section 2, "Busy")."""
    return Unprocessable(
        f"Instance {instance_id} is not currently available for an action to be performed "
        f"(instance status was {status})."
    )


@relies_on_single_writer
def begin_action(
    tx: Transaction, instance: Instance, origins: list[InstanceStatus], to: InstanceStatus, **values: Any
) -> None:
    """Move the instance to the status of an action, if no task of it is open.

    The status alone does not say so: a stopped instance is SHUTDOWN, and so is one that is being stopped.

    Raises:
        Unprocessable: the instance is not free.
    """
    idle = tasks.open_of_instance(tx, instance.id) is None
    if not idle or not instances.move(tx, instance.id, origins, to, **values):
        raise unavailable_for_action(instance.id, instance.status)


def require_host(tx: Transaction, deployment: Deployment, instance: Instance) -> Host:
    """The host of the instance. Raises ``Unavailable`` when it has not been heard from within a lease."""
    host = hosts.get(tx, instance.host_id)
    if host is None or host.seen_us is None or host.seen_us < tx.now_us - deployment.lease_us:
        raise Unavailable(f"The host of instance {instance.id} does not answer.")
    return host
