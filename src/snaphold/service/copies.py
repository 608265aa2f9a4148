"""Copies of backups in other regions: asked for here, recorded there (contract, section 6)."""

import uuid
from collections.abc import Mapping, Sequence

import structlog

from snaphold.catalog import backups, copies
from snaphold.catalog.database import Transaction
from snaphold.errors import BadRequest, NotFound, Unavailable, Unprocessable
from snaphold.model import (
    Backup,
    BackupStatus,
    Copy,
    CopyStatus,
    Made,
    Rate,
    copy_name,
    parse_rfc3339,
)
from snaphold.protocol import PeerAnswer, PeerCopy, PeerQuestion, PeerRecord
from snaphold.service import limits
from snaphold.service.deployment import Deployment
from snaphold.service.requests import BackupRequest, CopyRequest
from snaphold.steps import Step, reached

log = structlog.get_logger()

REGIONS = ("DFW", "IAD", "ORD", "HKG", "SYD")  # the chapter's; an operator's peers come on top

Parents = Mapping[str, PeerAnswer | Unavailable]  # what each region says of a parent


def request_copy(deployment: Deployment, account: str, backup_id: str, request: CopyRequest) -> None:
    """Have a backup copied to another region: row and job are one transaction; the peer is asked before.

    Raises:
        NotFound: no such backup.
        BadRequest: no region that a copy can go to, or its parent is not there.
        Unprocessable: it is not COMPLETED, a copy of it is there already or on its way.
        Unavailable: the other region does not answer.
    """
    with deployment.catalog.reading() as tx:
        backup = _completed(tx, deployment, account, backup_id, request.region)
        parent = None if backup.parent_id is None else backups.get(tx, backup.parent_id)
    answer = ask(deployment, request.region, account, [backup, *([] if parent is None else [parent])])
    if backup.id in answer.copies:
        raise Unprocessable(f"A copy of backup {backup_id} is in region {request.region} already.")
    if backup.parent_id is not None and backup.parent_id not in answer.copies:
        raise BadRequest(f"The parent of backup {backup_id} has not been copied to region {request.region}.")
    with deployment.catalog.writing() as tx:
        backup = _completed(tx, deployment, account, backup_id, request.region)
        copy = _new_copy(tx, backup, request.region, request.name, request.description)
        if not copies.insert(tx, copy):
            raise Unprocessable(f"Backup {backup_id} is being copied to region {request.region} already.")
        deployment.queue.enqueue(tx, "copy_backup", copy.id)
        limits.count(tx, deployment, account, Rate.BACKUP_ACTIONS)
    reached(Step.CONTROL_ASKED)
    log.info("backup.copy_requested", backup=backup_id, account=account, region=copy.region, copy=copy.copy_id)


def check_regions(deployment: Deployment, regions: Sequence[str]) -> None:
    """Raises ``BadRequest`` for a region that no copy can go to, whatever is set up."""
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
    """What each region of ``copy_to`` says of the parent; a silence is told by who checks, in its turn."""
    if request.parent_id is None or not request.copy_to:
        return {}
    with deployment.catalog.reading() as tx:
        parent = backups.find(tx, account, request.parent_id)
    if parent is None:
        return {}
    said: dict[str, PeerAnswer | Unavailable] = {}
    for region in request.copy_to:
        if region in deployment.peers:
            try:
                said[region] = ask(deployment, region, account, [parent])
            except Unavailable as error:
                said[region] = error
    return said


def check_parents(request: BackupRequest, said: Parents) -> None:
    """Raises ``BadRequest`` when the parent is not in a region that the backup is to be copied to."""
    for region, answer in said.items():
        if isinstance(answer, Unavailable):
            raise answer
        if request.parent_id not in answer.copies:
            raise BadRequest(f"The parent {request.parent_id} has not been copied to region {region}.")


def ask(deployment: Deployment, region: str, account: str, wanted: Sequence[Backup]) -> PeerAnswer:
    """Which of these are in the region. Raises ``Unavailable``, ``Permanent``."""
    question = PeerQuestion(
        account=account,
        region=deployment.region,
        wanted={backup.id: backup.made_from if backup.made_from_region == region else None for backup in wanted},
    )
    return deployment.peers[region].copies(question)


def counterparts_of(deployment: Deployment, backup: Backup) -> dict[str, PeerCopy]:
    """The same backup in other regions, by region: the one that it was copied from, and its copies.

    Raises ``Unavailable`` when nobody who answers has it, and somebody is silent.
    """
    found: dict[str, PeerCopy] = {}
    silent: Unavailable | None = None
    for region in deployment.peers:
        try:
            answer = ask(deployment, region, backup.account, [backup])
        except Unavailable as error:
            silent = error
            continue
        if backup.id in answer.copies:
            found[region] = answer.copies[backup.id]
    if silent is not None and not found:
        raise silent
    return found


def plan_copies(tx: Transaction, backup: Backup, regions: Sequence[str], *, with_ancestors: bool) -> None:
    """The copies that are made when the backup is COMPLETED, in the transaction that asks for the backup."""
    for region in regions:
        copies.insert(tx, _new_copy(tx, backup, region, None, None, with_ancestors=with_ancestors))


def begin_planned(tx: Transaction, deployment: Deployment, backup_id: str) -> None:
    """The backup is COMPLETED: its copies begin."""
    for copy_id in copies.open_of(tx, backup_id):
        deployment.queue.enqueue(tx, "copy_backup", copy_id)


def begin_ancestor(deployment: Deployment, copy: Copy, ancestor_id: str) -> Copy:
    """The copy of what another copy stands on: the one that is on its way, else a new one.

    Raises ``Unprocessable`` when it is not COMPLETED any more.
    """
    with deployment.catalog.writing() as tx:
        found = copies.open_copy(tx, ancestor_id, copy.region)
        if found is not None:
            return found
        ancestor = backups.find(tx, copy.account, ancestor_id)
        if ancestor is None or ancestor.status is not BackupStatus.COMPLETED or ancestor.deleting:
            raise Unprocessable(f"Backup {ancestor_id}, which it stands on, is not COMPLETED.")
        fresh = _new_copy(tx, ancestor, copy.region, None, None, with_ancestors=True)
        copies.insert(tx, fresh)
    return fresh


def resume_copies(deployment: Deployment) -> None:
    """Enqueue again what a worker that was ended had begun. For a worker's start: nobody else is at it."""
    with deployment.catalog.writing() as tx:
        for copy_id in copies.under_way(tx):
            deployment.queue.enqueue(tx, "copy_backup", copy_id)


def take_up_copies(deployment: Deployment) -> None:
    """Try again what found somebody silent and has waited long enough."""
    with deployment.catalog.reading() as tx:
        if not copies.due(tx):
            return
    with deployment.catalog.writing() as tx:
        for copy_id in copies.due(tx):
            copies.change(tx, copy_id, next_try_us=None)
            deployment.queue.enqueue(tx, "copy_backup", copy_id)


def answer_peer(deployment: Deployment, question: PeerQuestion) -> PeerAnswer:
    """Which of another region's backups are here."""
    with deployment.catalog.reading() as tx:
        found = copies.here(tx, question.account, question.region, question.wanted)
    there = {theirs: PeerCopy(id=ours, manifest_sha256=sha256) for theirs, (ours, sha256) in found.items()}
    return PeerAnswer(deployment=deployment.deployment_id, copies=there)


def record_copy(deployment: Deployment, message: PeerRecord) -> None:
    """A copy from another region is a backup of this one from now on; said again it is no news.

    The caller has seen that the manifest lies in this region's own store.

    Raises:
        Unprocessable: its parent is not here, or another backup has its id.
    """
    with deployment.catalog.writing() as tx:
        known = backups.get(tx, message.id)
        if known is not None:
            if known.manifest_sha256 != message.manifest_sha256:
                raise Unprocessable(f"Another backup has the id {message.id}.")
            return
        parent = None if message.parent_id is None else backups.find(tx, message.account, message.parent_id)
        if message.parent_id is not None and (
            parent is None or parent.status is not BackupStatus.COMPLETED or parent.deleting
        ):
            raise Unprocessable(f"The parent {message.parent_id} is not here any more.")
        backups.insert(tx, _backup_of(message))
    log.info("backup.received", backup=message.id, account=message.account, region=message.made_from_region)


def _completed(tx: Transaction, deployment: Deployment, account: str, backup_id: str, region: str) -> Backup:
    backup = backups.find(tx, account, backup_id)
    if backup is None:
        raise NotFound(f"Backup {backup_id} cannot be found.")
    check_regions(deployment, [region])
    if backup.status is not BackupStatus.COMPLETED or backup.deleting:
        raise Unprocessable(f"Backup {backup_id} is not COMPLETED.")
    check_peers(deployment, [region])
    return backup


def _new_copy(
    tx: Transaction, backup: Backup, region: str, name: str | None, description: str | None, *,
    with_ancestors: bool = False,
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
        status=CopyStatus.NEW,
        reason=None,
        tries=0,
        next_try_us=None,
        begun_us=None,
        created_us=tx.now_us,
        updated_us=tx.now_us,
    )


def _backup_of(message: PeerRecord) -> Backup:
    return Backup(
        id=message.id,
        account=message.account,
        name=message.name,
        description=message.description,
        status=BackupStatus.COMPLETED,
        deleting=False,
        instance_id=message.instance_id,
        source_type=message.source_type,
        source_id=message.source_id,
        parent_id=message.parent_id,
        datastore=message.datastore,
        version=message.backup_version,
        flavor_ram_mb=message.flavor_ram_mb,
        volume_gb=message.volume_gb,
        is_automated=message.is_automated,
        made=Made.COPIED,
        made_from=message.made_from,
        made_from_region=message.made_from_region,
        size_bytes=message.size_bytes,
        object_bytes=message.object_bytes,
        object_name=message.object_name,
        manifest_sha256=message.manifest_sha256,
        incarnation=message.incarnation,
        checkpoint_lsn=message.checkpoint_lsn,
        to_lsn=message.to_lsn,
        done_bytes=None,
        expected_bytes=None,
        step=None,
        reason=None,
        created_us=parse_rfc3339(message.created),
        updated_us=parse_rfc3339(message.updated),
        deleted_us=None,
    )
