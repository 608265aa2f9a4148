"""Finding an account's resources. An unknown, a foreign and a deleted one are the same ``NotFound``."""

from snaphold.catalog import backups, instances, schedules
from snaphold.catalog.database import Transaction
from snaphold.errors import NotFound, Unprocessable
from snaphold.model import Backup, Instance, Schedule


def find_instance(tx: Transaction, account: str, instance_id: str) -> Instance:
    """The account's instance. Raises ``NotFound``."""
    instance = instances.find(tx, account, instance_id)
    if instance is None:
        raise NotFound.of("Instance", instance_id)
    return instance


def find_source(tx: Transaction, account: str, source_type: str, source_id: str) -> Instance:
    """The instance to read for a backup of this source: the source itself, or a member of the group.

    Raises ``NotFound``; this release keeps no HA groups.
    """
    if source_type == "ha":
        raise NotFound.of("HA group", source_id)
    return find_instance(tx, account, source_id)


def find_backup(tx: Transaction, account: str, backup_id: str) -> Backup:
    """The account's backup. Raises ``NotFound``."""
    backup = backups.find(tx, account, backup_id)
    if backup is None:
        raise NotFound.of("Backup", backup_id)
    return backup


def find_usable_backup(tx: Transaction, account: str, backup_id: str) -> Backup:
    """The account's backup, if it is COMPLETED and is not being deleted. Raises ``NotFound``, ``Unprocessable``."""
    backup = find_backup(tx, account, backup_id)
    if not backup.usable:
        raise Unprocessable(f"Backup {backup_id} is not COMPLETED.")
    return backup


def find_schedule(tx: Transaction, account: str, schedule_id: str) -> Schedule:
    """The account's schedule. Raises ``NotFound``."""
    schedule = schedules.find(tx, account, schedule_id)
    if schedule is None:
        raise NotFound.of("Schedule", schedule_id)
    return schedule
