"""Repair of backups: damaged objects are replaced with the same bytes from another region.

    data object, segment by segment → index → manifest

Only damaged parts are fetched, and their hashes are checked before anything is replaced. An attempt that is
interrupted, or that finds the other region damaged too, makes nothing worse. A repair is the first half of a
verification (:mod:`snaphold.worker.verification`), which then reads everything back.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeVar

import structlog

from snaphold.catalog import backups
from snaphold.errors import Damaged, ObjectMissing, SnapholdError, Superseded, Transient, Unavailable, in_full
from snaphold.facts import facts_of_replica
from snaphold.formats.backup_facts import facts_of, with_facts
from snaphold.formats.manifest import Manifest, load, sha256_of
from snaphold.model import Backup
from snaphold.objects import manifest_name, segment_prefix
from snaphold.service.copies import counterparts_of
from snaphold.service.deployment import Deployment
from snaphold.steps import Step, reached
from snaphold.store.base import Containers, ObjectStore, OwnStore, Stores
from snaphold.stream.priority import Priority
from snaphold.stream.segments import discard, segment_pieces
from snaphold.stream.transfer import bring_data
from snaphold.stream.verification import damaged_segments, verify_index

_log = structlog.get_logger()

T = TypeVar("T")

_REPAIR: Final = 0  # the number of the attempt that replaces a missing data object; hosts' attempts begin at 1
_ATTEMPTS: Final = 100  # numbers that are tried to make a lost manifest again


@dataclass(frozen=True, kw_only=True)
class Replica:
    """The same backup in another region's store, with its manifest there."""

    region: str
    store: ObjectStore
    manifest: Manifest


Replicas = Callable[[], list[Replica]]  # called at most once, when something is damaged


class Repairer:
    """Repairs backups of one region. ``targets``: the stores of each peer region. ``stop`` interrupts a repair."""

    def __init__(
        self, deployment: Deployment, stores: Stores, targets: Mapping[str, Containers], stop: threading.Event,
        priority: Priority,
    ) -> None:  # fmt: skip
        self._deployment = deployment
        self._stores = stores
        self._targets = targets
        self._stop = stop
        self._priority = priority

    def offer(self, backup: Backup) -> str | None:
        """A region that should have the same bytes, by its record and manifest; they are not read. None: no region."""
        with suppress(SnapholdError):
            return next((replica.region for replica in self._replicas(backup)), None)
        return None

    def repair(self, backup: Backup) -> None:
        """Replace the damaged and missing objects of a backup with those of other regions.

        Raises:
            Damaged: a part is damaged or missing in the other regions too; all other parts were repaired.
            Unavailable, Transient: the region that may have it does not answer.
            Superseded: the process is being stopped.
        """
        reached(Step.REPAIR_BEGUN)
        store = self._stores.of(backup.account)
        replicas: Replicas = cache(lambda: self._replicas(backup))
        manifest = _manifest_here(store, backup)
        lost = manifest is None
        if manifest is None:
            manifest = self._manifest_again(backup, replicas())
        repaired = self._repair_data(store, backup, manifest, replicas)
        reached(Step.REPAIR_DATA_WRITTEN)
        repaired += _repair_index(store, manifest, replicas)
        reached(Step.REPAIR_INDEX_WRITTEN)
        if lost:
            store.replace(manifest_name(backup.id), manifest.dump())
            repaired.append("manifest")
        reached(Step.REPAIR_MANIFEST_WRITTEN)
        if repaired:
            _log.info(
                "backup.repaired",
                backup=backup.id,
                regions=[replica.region for replica in replicas()],
                repaired=repaired,
            )

    def _replicas(self, backup: Backup) -> list[Replica]:
        """The replicas with the same bytes. Raises ``Unavailable``, ``Transient`` if only silent regions have one."""
        found, silent = [], None
        for region, there in counterparts_of(self._deployment, backup).items():
            if region not in self._targets:
                continue
            store, name = self._targets[region].of(backup.account), manifest_name(there.id)
            try:
                manifest = load(b"".join(store.get(name)), name=name, sha256=there.manifest_sha256)
            except (Transient, Unavailable) as error:
                silent = error
            except SnapholdError as error:
                _log.warning("backup.replica_unusable", backup=backup.id, region=region, reason=in_full(error))
            else:
                if manifest.data.size_bytes == backup.object_bytes:
                    found.append(Replica(region=region, store=store, manifest=manifest))
        if silent is not None and not found:
            raise silent
        return found

    def _manifest_again(self, backup: Backup, replicas: list[Replica]) -> Manifest:
        """The lost manifest, made from the catalog and a replica's manifest, and checked by its recorded hash."""
        with self._deployment.catalog.reading() as tx:
            parent = None if backup.parent_id is None else backups.get(tx, backup.parent_id)
        for replica in replicas:
            facts = facts_of_replica(facts_of(replica.manifest), backup)
            for attempt in range(1, _ATTEMPTS + 1):
                manifest = with_facts(
                    replica.manifest,
                    facts,
                    deployment_id=self._deployment.deployment_id,
                    attempt=attempt,
                    parent_sha256=None if parent is None else parent.manifest_sha256,
                )
                if sha256_of(manifest.dump()) == backup.manifest_sha256:
                    return manifest
        raise Damaged(f"the manifest {manifest_name(backup.id)} is damaged or gone, {_nobody(replicas)}")

    def _repair_data(self, store: OwnStore, backup: Backup, manifest: Manifest, replicas: Replicas) -> list[str]:
        """Repair the data object; the names of the repaired parts."""
        name, size_bytes = manifest.data.name, manifest.data.size_bytes
        try:
            damaged = damaged_segments(
                store,
                manifest,
                threads=self._deployment.settings.compression_threads,
                priority=self._priority,
                stop=self._stop,
            )
        except ObjectMissing:
            self._bring_all(store, backup, manifest, replicas())
            return ["data object"]
        replacement = _Replacement(manifest, damaged, replicas, self._check)
        store.replace_segments(name, replacement, size_bytes=size_bytes, segment_size=manifest.segment_size_bytes)
        if replacement.failure is not None:
            raise replacement.failure
        return [f"segment {number}" for number in damaged]

    def _bring_all(self, store: ObjectStore, backup: Backup, manifest: Manifest, replicas: list[Replica]) -> None:
        """Fetch the whole data object, as a copy does."""
        prefix = segment_prefix(self._deployment.deployment_id, backup.id, _REPAIR)

        def bring(replica: Replica) -> bool | None:
            if not _same_bytes(manifest, replica.manifest):
                return None
            bring_data(replica.manifest, replica.store, store, manifest.data.name, prefix, stop=self._stop)
            return True

        try:
            _first_whole(replicas, bring, f"{manifest.data.name} is gone")
        except Damaged:
            discard(store, prefix)
            raise

    def _check(self) -> None:
        if self._stop.is_set():
            raise Superseded("the repair was interrupted")


class _Replacement:
    """Good bytes for the damaged segments of a data object, each with its number, fetched anew at each iteration.

    A segment that no region has whole is left out. A region that fails to answer ends the iteration, so that the
    segments fetched before are kept. ``failure``: why the latest iteration left segments out; if it left all of them
    out, it raised this error.
    """

    def __init__(
        self, manifest: Manifest, damaged: Sequence[int], replicas: Replicas, check: Callable[[], None]
    ) -> None:
        self.failure: SnapholdError | None = None
        self._manifest = manifest
        self._damaged = damaged
        self._replicas = replicas
        self._check = check

    def __iter__(self) -> Iterator[tuple[int, list[bytes]]]:
        self.failure, fetched = None, 0
        for number in self._damaged:
            try:
                pieces = _whole(self._manifest, number, self._replicas(), self._check)
            except Superseded:
                raise
            except Damaged as error:
                self.failure = self.failure or error
            except SnapholdError as error:
                self.failure = error
                break
            else:
                yield number, pieces
                fetched += 1
                reached(Step.REPAIR_SEGMENT_WRITTEN)
        if self.failure is not None and not fetched:
            raise self.failure


def _manifest_here(store: ObjectStore, backup: Backup) -> Manifest | None:
    """The backup's own manifest; None: it is damaged or missing."""
    name = manifest_name(backup.id)
    for _ in range(2):  # a single bad read does not show damage
        with suppress(Damaged, ObjectMissing):
            return load(b"".join(store.get(name)), name=name, sha256=backup.manifest_sha256 or "")
    return None


def _repair_index(store: ObjectStore, manifest: Manifest, replicas: Replicas) -> list[str]:
    """Repair the index; the names of the repaired parts."""
    index = manifest.index
    try:
        verify_index(store, index)
    except (Damaged, ObjectMissing):
        pass
    else:
        return []

    def fetch(replica: Replica) -> bytes | None:
        data = b"".join(replica.store.get(replica.manifest.index.name))
        return data if sha256_of(data) == index.sha256 else None

    store.replace(index.name, _first_whole(replicas(), fetch, f"the index {index.name} is damaged or gone"))
    return ["index"]


def _whole(manifest: Manifest, number: int, replicas: list[Replica], check: Callable[[], None]) -> list[bytes]:
    """The pieces of one segment, from the first intact replica. Raises ``Damaged`` if there is none."""

    def fetch(replica: Replica) -> list[bytes] | None:
        if not _same_bytes(manifest, replica.manifest):
            return None
        return list(segment_pieces(replica.manifest, replica.store, number, check))

    return _first_whole(replicas, fetch, f"segment {number} of {manifest.data.name} is damaged")


def _first_whole(replicas: list[Replica], fetch: Callable[[Replica], T | None], lost: str) -> T:
    """The result of ``fetch`` from the first replica that has it. Raises ``Damaged`` (``lost``) if none has."""
    harm: SnapholdError | None = None
    for replica in replicas:
        try:
            found = fetch(replica)
        except (Damaged, ObjectMissing) as error:
            harm = error
        else:
            if found is not None:
                return found
    raise Damaged(f"{lost}, {_nobody(replicas, harm)}")


def _same_bytes(one: Manifest, other: Manifest) -> bool:
    return (one.segments, one.segment_size_bytes) == (other.segments, other.segment_size_bytes)


def _nobody(replicas: list[Replica], harm: SnapholdError | None = None) -> str:
    """The reason why a part could not be repaired."""
    if not replicas:
        return "and no other region has it"
    regions = ", ".join(replica.region for replica in replicas)
    return f"and region {regions} does not have it whole" + (f": {harm}" if harm is not None else "")
