"""Orphaned objects: those in accounts' containers that belong to no backup in the catalog. They are never removed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import structlog

from snaphold.catalog import backups
from snaphold.catalog.database import Catalog
from snaphold.model import SERVICE_ACCOUNT
from snaphold.objects import ObjectInfo, backup_of_object, owner_of_segment
from snaphold.store.base import Stores

_log = structlog.get_logger()

_NAMES: Final = 20  # names reported of each kind


class Kind(StrEnum):
    """The owner of an object, as its name and the catalog show it."""

    OURS = "ours_unrecorded"  # under this deployment's prefix, or of a backup that has failed or was deleted
    UNKNOWN = "unknown_backups"  # named like a backup that the catalog does not have: lost, or another cloud's
    OTHERS = "other_deployments"
    FOREIGN = "foreign"


Counts = Mapping[Kind, int]


@dataclass(kw_only=True)
class Tally:
    """The number of objects, their total size, and the names of the first few."""

    count: int = 0
    size_bytes: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.count += other.count
        self.size_bytes += other.size_bytes
        self.names += other.names[: _NAMES - len(self.names)]

    def to_json(self) -> dict[str, Any]:
        """The tally as printed."""
        return {"count": self.count, "bytes": self.size_bytes, "names": self.names}


@dataclass(frozen=True, kw_only=True)
class OrphanedObjects:
    """The orphaned objects of one account's container."""

    account: str
    tallies: Mapping[Kind, Tally]

    @property
    def counts(self) -> Counts:
        """The number of objects of each kind."""
        return {kind: tally.count for kind, tally in self.tallies.items()}

    def to_json(self) -> dict[str, Any]:
        """The tally as printed."""
        return {"account": self.account, **{kind.value: tally.to_json() for kind, tally in self.tallies.items()}}


def sort_out(
    objects: Iterable[ObjectInfo], endings: Mapping[str, int | None], deployment_id: str, settled_us: int
) -> dict[Kind, Tally]:
    """Sort the objects of a container by owner. ``endings``: see ``catalog.backups.endings``.

    1. An object of a backup that has not ended is not orphaned.
    2. Nor is an object of a backup that ended after ``settled_us``, or that had an object written after it: an attempt,
       a copy from another region, or a sweep may still be under way.
    """
    groups: dict[tuple[Kind, str], Tally] = {}
    under_way: set[str] = set()
    for found in objects:
        kind, backup_id = _kind_of(found.name, endings, deployment_id)
        if backup_id in endings:
            ended_us = endings[backup_id]
            if ended_us is None or ended_us > settled_us:
                continue
        if found.modified_s * 1_000_000 > settled_us:
            under_way.add(backup_id)
        one = Tally(count=1, size_bytes=found.size_bytes, names=[found.name])
        groups.setdefault((kind, backup_id), Tally()).add(one)
    tallies = {kind: Tally() for kind in Kind}
    for (kind, backup_id), tally in groups.items():
        if not (backup_id and backup_id in under_way):
            tallies[kind].add(tally)
    return tallies


def _kind_of(name: str, endings: Mapping[str, int | None], deployment_id: str) -> tuple[Kind, str]:
    """The kind of an object if it is orphaned, and the id of the backup that it may belong to, or an empty string."""
    if (owner := owner_of_segment(name)) is not None:
        owner_deployment, backup_id = owner
        return (Kind.OURS, backup_id) if owner_deployment == deployment_id else (Kind.OTHERS, "")
    named = backup_of_object(name)
    if named is None:
        return Kind.FOREIGN, ""
    return Kind.OURS if named in endings else Kind.UNKNOWN, named


def changes(before: Mapping[str, Counts], found: Iterable[OrphanedObjects]) -> list[OrphanedObjects]:
    """The accounts whose counts have changed; an account that was not scanned before counts as empty."""
    nothing = dict.fromkeys(Kind, 0)
    return [one for one in found if before.get(one.account, nothing) != one.counts]


class OrphanScanner:
    """Finds the orphaned objects of one region. It only reads. ``grace_us``: how long an object counts as under way."""

    def __init__(self, catalog: Catalog, stores: Stores, deployment_id: str, grace_us: int) -> None:
        self._catalog = catalog
        self._stores = stores
        self._deployment_id = deployment_id
        self._grace_us = grace_us
        self._told: dict[str, Counts] = {}

    def look(self, accounts: Iterable[str] | None = None) -> Iterator[OrphanedObjects]:
        """The orphaned objects of each account; None: of every account that has a container.

        The catalog is read before the container, so that a backup begun meanwhile is younger than the grace time.

        Raises:
            Transient, Permanent: a store does not answer, or refuses.
        """
        for account in self._stores.accounts() if accounts is None else accounts:
            if account == SERVICE_ACCOUNT:
                continue
            with self._catalog.reading() as tx:
                settled_us = tx.now_us - self._grace_us
                endings = backups.endings(tx, account)
            tallies = sort_out(self._stores.of(account).list(""), endings, self._deployment_id, settled_us)
            yield OrphanedObjects(account=account, tallies=tallies)

    def tell_changes(self) -> None:
        """Log the counts of each account whose counts have changed since the last scan."""
        for one in changes(self._told, self.look()):
            tell = _log.warning if one.tallies[Kind.OURS].count else _log.info
            tell(
                "store.orphaned_objects_changed",
                account=one.account,
                **{kind.value: count for kind, count in one.counts.items()},
            )
            self._told[one.account] = one.counts
