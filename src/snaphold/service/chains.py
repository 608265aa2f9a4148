"""Chains: the backups that a backup depends on, and the choice of a parent (contract, section 2)."""

from snaphold.catalog import backups
from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.errors import BadRequest, NotFound, Unprocessable
from snaphold.model import Backup, Instance
from snaphold.protocol import ChainLink


def chain_of(tx: Transaction, backup: Backup) -> list[ChainLink]:
    """The chain of a backup, the full one first. Raises ``Unprocessable`` if one of them has no manifest yet."""
    return [_link_of(member) for member in reversed(members_of(tx, backup))]


@relies_on_single_writer
def refuse_broken_chain(tx: Transaction, backup: Backup) -> None:
    """Raise ``Unprocessable`` if a backup that this one depends on is missing, or is being deleted."""
    members = members_of(tx, backup)
    for member in members[1:]:
        if not member.usable:
            raise Unprocessable(f"Backup {member.id}, which {backup.id} depends on, is not COMPLETED.")
    if members[-1].parent_id is not None:
        raise Unprocessable(f"Backup {members[-1].parent_id}, which {backup.id} depends on, is not in the catalog.")


def named_parent(tx: Transaction, instance: Instance, parent_id: str) -> Backup:
    """The parent that a request for an increment names.

    Raises:
        NotFound: the account has no such backup.
        BadRequest: it is of another source.
        Unprocessable: it or one of its ancestors is not COMPLETED or is being deleted, or the data of the instance was
            replaced since.
    """
    parent = backups.find(tx, instance.account, parent_id)
    if parent is None:
        raise NotFound.of("Backup", parent_id)
    if parent.source_id != instance.source.id:
        raise BadRequest(f"Backup {parent_id} is of another source and cannot be a parent here.")
    if not parent.usable:
        raise Unprocessable(f"Backup {parent_id} is not COMPLETED and cannot be a parent.")
    refuse_broken_chain(tx, parent)
    if not _same_life(tx, instance, parent):
        raise Unprocessable(f"Backup {parent_id} was taken before the data of its instance was replaced.")
    return parent


def newest_parent(tx: Transaction, instance: Instance, *, automated_only: bool) -> Backup | None:
    """The newest backup that an increment may be based on; None: take a full one."""
    if instance.incarnation is None and instance.ended_incarnation is not None:
        return None
    newest = backups.newest_completed(
        tx, instance.source.id, automated_only=automated_only, incarnation=instance.incarnation
    )
    if newest is not None:
        try:
            refuse_broken_chain(tx, newest)
        except Unprocessable:
            return None
    return newest


def _same_life(tx: Transaction, instance: Instance, parent: Backup) -> bool:
    """Whether the instance still has the data that the parent was taken from, as far as the catalog knows.

    If its host has not reported an incarnation yet, that of the newest backup counts. If its data was rolled back, no
    backup fits until a new one was taken. The host decides in the end.
    """
    if instance.incarnation is not None:
        return parent.incarnation == instance.incarnation
    if instance.ended_incarnation is not None:
        return False
    newest = backups.newest_completed(tx, instance.source.id)
    return newest is None or newest.incarnation == parent.incarnation


def members_of(tx: Transaction, backup: Backup) -> list[Backup]:
    """The chain of a backup, the full one last, as far as the catalog has it."""
    members = [backup]
    while (parent_id := members[-1].parent_id) is not None and (parent := backups.get(tx, parent_id)) is not None:
        members.append(parent)
    return members


def _link_of(backup: Backup) -> ChainLink:
    if backup.manifest_sha256 is None:  # a constraint of the catalog forbids it
        raise Unprocessable(f"Backup {backup.id} has no manifest.")
    return ChainLink(backup_id=backup.id, account=backup.account, manifest_sha256=backup.manifest_sha256)
