"""Copies of backups in other regions: requested here, recorded there (contract, section 6)."""

import uuid
from collections.abc import Mapping, Sequence

import structlog

from snaphold.catalog import backups, copies
from snaphold.catalog.database import Transaction
from snaphold.errors import BadRequest, Forbidden, OverLimit, Refused, Unavailable, Unprocessable, in_full
from snaphold.model import (
    Backup,
    Copy,
    CopyStatus,
    Rate,
    copy_name,
)
from snaphold.protocol import PeerAnnouncement, PeerAnswer, PeerCopy, PeerQuery, PeerWithdrawal
from snaphold.service import limits
from snaphold.service.deployment import Deployment
from snaphold.service.find import find_backup
from snaphold.service.requests import BackupRequest, CopyRequest
from snaphold.steps import Step, reached

_log = structlog.get_logger()

REGIONS = ("DFW", "IAD", "ORD", "HKG", "SYD")  # of the chapter; an operator may add peers

Parents = Mapping[str, PeerAnswer | Unavailable | Forbidden]  # what each region has of a parent


def request_copy(deployment: Deployment, account: str, backup_id: str, request: CopyRequest) -> None:
    """Request a copy in another region. The peer is asked first; then row and job are one transaction.

    Raises:
        NotFound: no such backup.
        BadRequest: backups cannot be copied to the region, or the parent is not there.
        Unprocessable: it is not COMPLETED, or a copy of it is there already or under way.
        Forbidden: the user may not make changes there.
        OverLimit: too many requests here, or the account has reached its limit of backups there.
        Unavailable: the other region does not answer.
    """
    with deployment.catalog.reading() as tx:
        backup = _completed(tx, deployment, account, backup_id, request.region)
        parent = None if backup.parent_id is None else backups.get(tx, backup.parent_id)
    wanted = [backup, *([] if parent is None else [parent])]
    answer = ask(deployment, request.region, account, wanted, user=request.asked_by)
    if backup.id in answer.copies:
        raise Unprocessable(f"A copy of backup {backup_id} is in region {request.region} already.")
    if backup.parent_id is not None and backup.parent_id not in answer.copies:
        raise BadRequest(f"The parent of backup {backup_id} has not been copied to region {request.region}.")
    if answer.full is not None:
        raise OverLimit(f"Region {request.region} refuses: {answer.full}")
    with deployment.catalog.writing() as tx:
        backup = _completed(tx, deployment, account, backup_id, request.region)
        copy = _new_copy(tx, backup, request.region, request.name, request.description, asked_by=request.asked_by)
        if not copies.insert(tx, copy):
            raise Unprocessable(f"Backup {backup_id} is being copied to region {request.region} already.")
        deployment.queue.enqueue(tx, "copy_backup", copy.id)
        limits.count(tx, deployment, account, Rate.BACKUP_ACTIONS)
    reached(Step.CONTROL_ASKED)
    _log.info("backup.copy_requested", backup=backup_id, account=account, region=copy.region, copy=copy.copy_id)


def check_regions(deployment: Deployment, regions: Sequence[str]) -> None:
    """Raises ``BadRequest`` for a region that backups can never be copied to."""
    for region in regions:
        if region == "LON" or (region not in REGIONS and region not in deployment.peers):
            raise BadRequest(f"Backups cannot be copied to region {region}.")
        if region == deployment.region:
            raise BadRequest(f"The backup is in region {region} already.")
    if regions and deployment.region == "LON":
        raise BadRequest("Backups cannot be copied from region LON.")


def check_peers(deployment: Deployment, regions: Sequence[str]) -> None:
    """Raises ``BadRequest`` for a region that is not set up here."""
    for region in regions:
        if region not in deployment.peers:
            raise BadRequest(f"Region {region} is not set up as a place for copies.")


def ask_of_parent(deployment: Deployment, account: str, request: BackupRequest) -> Parents:
    """What each region of ``copy_to`` has of the parent, or its error, which ``check_parents`` raises in its turn."""
    if request.parent_id is None or not request.copy_to:
        return {}
    with deployment.catalog.reading() as tx:
        parent = backups.find(tx, account, request.parent_id)
    if parent is None:
        return {}
    said: dict[str, PeerAnswer | Unavailable | Forbidden] = {}
    for region in request.copy_to:
        if region in deployment.peers:
            try:
                said[region] = ask(deployment, region, account, [parent], user=request.asked_by)
            except (Unavailable, Forbidden) as error:
                said[region] = error
    return said


def check_parents(request: BackupRequest, said: Parents) -> None:
    """Raises ``BadRequest`` when the parent is not in a region that the backup is to be copied to."""
    for region, answer in said.items():
        if not isinstance(answer, PeerAnswer):
            raise answer
        if request.parent_id not in answer.copies:
            raise BadRequest(f"The parent {request.parent_id} has not been copied to region {region}.")


def ask(
    deployment: Deployment, region: str, account: str, wanted: Sequence[Backup], *, user: str | None = None
) -> PeerAnswer:
    """Ask a region which of these backups it has, and whether ``user`` may copy another one there.

    Raises ``Unavailable``; ``Forbidden`` if the user may not.
    """
    question = PeerQuery(
        user=user,
        account=account,
        region=deployment.region,
        wanted={backup.id: backup.made_from if backup.made_from_region == region else None for backup in wanted},
    )
    return deployment.peers[region].copies(question)


def counterparts_of(deployment: Deployment, backup: Backup) -> dict[str, PeerCopy]:
    """The same backup in other regions, by region: its original, and its copies.

    Raises ``Unavailable`` if no region that answers has it, and another region does not answer.
    """
    found: dict[str, PeerCopy] = {}
    silent: Unavailable | None = None
    for region in deployment.peers:
        try:
            answer = ask(deployment, region, backup.account, [backup])
        except Unavailable as error:
            silent = error
            continue
        except Refused as error:
            _log.warning("backup.replica_unusable", backup=backup.id, region=region, reason=in_full(error))
            continue
        if backup.id in answer.copies:
            found[region] = answer.copies[backup.id]
    if silent is not None and not found:
        raise silent
    return found


def plan_copies(
    tx: Transaction, backup: Backup, regions: Sequence[str], *, asked_by: str | None, with_ancestors: bool
) -> None:
    """Insert the copies to make once the backup is COMPLETED, in the transaction that requests the backup."""
    for region in regions:
        copies.insert(tx, _new_copy(tx, backup, region, None, None, asked_by=asked_by, with_ancestors=with_ancestors))


def begin_planned(tx: Transaction, deployment: Deployment, backup_id: str) -> None:
    """Begin the planned copies of a backup that is COMPLETED."""
    for copy_id in copies.open_of(tx, backup_id):
        deployment.queue.enqueue(tx, "copy_backup", copy_id)


def begin_ancestor(deployment: Deployment, copy: Copy, ancestor_id: str) -> Copy:
    """The copy of an ancestor that another copy needs: the one that is under way, or a new one.

    Raises ``Unprocessable`` when it is not COMPLETED any more.
    """
    with deployment.catalog.writing() as tx:
        found = copies.open_copy(tx, ancestor_id, copy.region)
        if found is not None:
            return found
        ancestor = backups.find(tx, copy.account, ancestor_id)
        if ancestor is None or not ancestor.usable:
            raise Unprocessable(f"Backup {ancestor_id}, which it depends on, is not COMPLETED.")
        fresh = _new_copy(tx, ancestor, copy.region, None, None, asked_by=copy.asked_by, with_ancestors=True)
        copies.insert(tx, fresh)
    return fresh


def announce_copy(deployment: Deployment, copy: Copy, segments: int) -> None:
    """Announce the objects of a copy to its region. Raises ``Unavailable``, ``Refused``."""
    deployment.peers[copy.region].announce(
        PeerAnnouncement(
            id=copy.copy_id,
            account=copy.account,
            region=deployment.region,
            made_from=copy.backup_id,
            user=copy.asked_by,
            segments=segments,
        )
    )


def give_up(deployment: Deployment, copy: Copy) -> bool:
    """Have the objects of a failed copy removed in its region; True if that region has the copy after all.

    Raises ``Unavailable``, ``Refused``: they stay until that region abandons the copy by itself.
    """
    message = PeerWithdrawal(id=copy.copy_id, account=copy.account, region=deployment.region)
    return deployment.peers[copy.region].withdraw(message).recorded


def resume_copies(deployment: Deployment) -> None:
    """Enqueue again the copies that an earlier worker had begun. Call it when a worker starts."""
    with deployment.catalog.writing() as tx:
        for copy_id in copies.under_way(tx):
            deployment.queue.enqueue(tx, "copy_backup", copy_id)


def retry_copies(deployment: Deployment) -> None:
    """Retry the copies that did not get an answer, once they have waited long enough."""
    with deployment.catalog.reading() as tx:
        if not copies.due(tx):
            return
    with deployment.catalog.writing() as tx:
        for copy_id in copies.due(tx):
            copies.change(tx, copy_id, next_try_us=None)
            deployment.queue.enqueue(tx, "copy_backup", copy_id)


def _completed(tx: Transaction, deployment: Deployment, account: str, backup_id: str, region: str) -> Backup:
    backup = find_backup(tx, account, backup_id)
    check_regions(deployment, [region])
    if not backup.usable:
        raise Unprocessable(f"Backup {backup_id} is not COMPLETED.")
    check_peers(deployment, [region])
    return backup


def _new_copy(
    tx: Transaction, backup: Backup, region: str, name: str | None, description: str | None, *,
    asked_by: str | None, with_ancestors: bool = False,
) -> Copy:  # fmt: skip
    return Copy(
        id=str(uuid.uuid4()),
        backup_id=backup.id,
        account=backup.account,
        region=region,
        copy_id=str(uuid.uuid4()),
        name=name or copy_name(backup.name),
        description=backup.description if description is None else description,
        with_ancestors=with_ancestors,
        asked_by=asked_by,
        status=CopyStatus.NEW,
        reason=None,
        tries=0,
        next_try_us=None,
        begun_us=None,
        created_us=tx.now_us,
        updated_us=tx.now_us,
    )
