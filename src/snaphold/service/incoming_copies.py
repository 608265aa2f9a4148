"""Copies from other regions: announced, written by the peer, then recorded as backups of this region.

A peer may write the objects of the copies that it has announced, until these are recorded or abandoned, and no others.
"""

from collections.abc import Set as AbstractSet
from typing import Final

import structlog

from snaphold.catalog import backups, copies, incoming_copies
from snaphold.catalog.database import Transaction, relies_on_single_writer
from snaphold.errors import Forbidden, OverLimit, Unprocessable
from snaphold.facts import completed_backup, facts_of_record
from snaphold.model import IncomingCopy
from snaphold.objects import backup_of_name
from snaphold.protocol import (
    PeerAnnouncement,
    PeerAnswer,
    PeerCopy,
    PeerQuery,
    PeerRecord,
    PeerWithdrawal,
    PeerWithdrawn,
)
from snaphold.service import quotas
from snaphold.service.deployment import Deployment

_log = structlog.get_logger()

_NOTED_US: Final = 3600 * 1_000_000  # how often the arrival of objects is noted


def answer_peer(deployment: Deployment, question: PeerQuery) -> PeerAnswer:
    """Which backups of another region are here, and whether the account may have more."""
    full = None
    with deployment.catalog.reading() as tx:
        found = copies.here(tx, question.account, question.region, question.wanted)
        try:
            quotas.check_backups(tx, deployment, question.account)
        except OverLimit as error:
            full = str(error)
    there = {theirs: PeerCopy(id=ours, manifest_sha256=sha256) for theirs, (ours, sha256) in found.items()}
    return PeerAnswer(deployment=deployment.deployment_id, copies=there, full=full)


@relies_on_single_writer
def expect_copy(deployment: Deployment, message: PeerAnnouncement) -> None:
    """Permit the objects of a copy to be written. A repeated announcement is a sign of life.

    Raises:
        Unprocessable: it was abandoned here, or another backup has its id.
        OverLimit: the account has reached its limit of backups.
        Forbidden, Unavailable: the account's store refuses, or does not answer.
    """
    deployment.store_gate.check(message.account, write=True)
    with deployment.catalog.writing() as tx:
        known = incoming_copies.get(tx, message.id)
        if known is not None:
            if known.ended_us is not None or not _is_of(known, message):
                raise Unprocessable(f"Copy {message.id} was given up.")
            incoming_copies.note_seen(tx, message.id)
            return
        if backups.get(tx, message.id) is not None:
            raise Unprocessable(f"Another backup has the id {message.id}.")
        quotas.check_backups(tx, deployment, message.account)
        incoming_copies.insert(tx, _incoming_copy_of(tx, message))
    _log.info("backup.announced", backup=message.id, account=message.account, region=message.region)


def record_copy(deployment: Deployment, message: PeerRecord) -> None:
    """Record a copy from another region as a backup of this one. A repeated message changes nothing.

    The caller has checked that the manifest is in this region's own store.

    Raises:
        Unprocessable: its parent is not here, it was abandoned or never announced, or another backup has its id.
    """
    with deployment.catalog.writing() as tx:
        coming = incoming_copies.get(tx, message.id)
        known = backups.get(tx, message.id)
        if known is not None:
            if known.manifest_sha256 != message.manifest_sha256:
                raise Unprocessable(f"Another backup has the id {message.id}.")
            incoming_copies.remove(tx, message.id)
            return
        if (
            coming is None
            or coming.ended_us is not None
            or coming.account != message.account
            or (coming.region != message.made_from_region)
        ):
            raise Unprocessable(f"Copy {message.id} was given up.")
        parent = None if message.parent_id is None else backups.find(tx, message.account, message.parent_id)
        if message.parent_id is not None and (parent is None or not parent.usable):
            raise Unprocessable(f"The parent {message.parent_id} is not here any more.")
        backups.insert(tx, completed_backup(facts_of_record(message), message.manifest_sha256))
        incoming_copies.remove(tx, message.id)
    _log.info("backup.received", backup=message.id, account=message.account, region=message.made_from_region)


def withdraw_copy(deployment: Deployment, message: PeerWithdrawal) -> PeerWithdrawn:
    """End a copy of which no more will come: its objects are removed, unless it is a backup already."""
    with deployment.catalog.writing() as tx:
        known = backups.find(tx, message.account, message.id)
        if known is not None and known.made_from_region == message.region:
            return PeerWithdrawn(recorded=True)
        coming = incoming_copies.get(tx, message.id)
        if coming is not None and (coming.account, coming.region) == (message.account, message.region):
            incoming_copies.end(tx, message.id)
            deployment.queue.enqueue(tx, "sweep_arrival", message.id)
    return PeerWithdrawn(recorded=False)


def check_write(deployment: Deployment, regions: AbstractSet[str], account: str, name: str, number: int = 0) -> None:
    """Check whether the peer of these regions may write, list or delete an object of this name.

    For a prefix: whether it may write segment ``number`` under it. Raises ``Forbidden`` unless the object belongs to a
    copy that this peer has announced and that has not ended.
    """
    with deployment.catalog.reading() as tx:
        coming = incoming_copies.get(tx, backup_of_name(name, deployment=deployment.deployment_id) or "")
        now_us = tx.now_us
    if coming is None or coming.ended_us is not None or coming.account != account or coming.region not in regions:
        raise Forbidden(f"{name} belongs to no copy that was announced.")
    if number >= coming.segments:
        raise Forbidden(f"Only {coming.segments} segments were announced.")
    if now_us - coming.seen_us >= _NOTED_US:
        with deployment.catalog.writing() as tx:
            incoming_copies.note_seen(tx, coming.id)


def check_read(deployment: Deployment, regions: AbstractSet[str], account: str, name: str) -> None:
    """Check whether the peer of these regions may read an object.

    It may read the objects of copies that it makes, of backups that were copied from it, and of those copied to it.
    Raises ``Forbidden``.
    """
    backup_id = backup_of_name(name, deployment=deployment.deployment_id) or ""
    with deployment.catalog.reading() as tx:
        coming = incoming_copies.get(tx, backup_id)
        theirs = copies.regions_of(tx, account, backup_id)
    if coming is not None and coming.account == account:
        theirs.add(coming.region)
    if not theirs & regions:
        raise Forbidden(f"{name} belongs to no copy of yours.")


def _is_of(known: IncomingCopy, message: PeerAnnouncement) -> bool:
    return (known.account, known.region, known.made_from) == (message.account, message.region, message.made_from)


def _incoming_copy_of(tx: Transaction, message: PeerAnnouncement) -> IncomingCopy:
    return IncomingCopy(
        id=message.id,
        account=message.account,
        region=message.region,
        made_from=message.made_from,
        segments=message.segments,
        created_us=tx.now_us,
        seen_us=tx.now_us,
        ended_us=None,
    )
