"""Mending backups: what is damaged here is fetched from another region that has the same bytes.

    data object, segment by segment → index → manifest

Only what differs is fetched, and its hash is checked before it takes the place of anything. So a try that was cut
short, or that found the other side damaged too, leaves nothing worse than it was. A repair is the first half of a
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

log = structlog.get_logger()

T = TypeVar("T")

_REPAIR: Final = 0  # the attempt whose prefix a data object that is gone is brought under; those of hosts begin at 1
_ATTEMPTS: Final = 100  # as which one a host may have taken a backup whose manifest is gone


@dataclass(frozen=True, kw_only=True)
class Replica:
    """The same backup in another region's store, with its manifest there."""

    region: str
    store: ObjectStore
    manifest: Manifest


Replicas = Callable[[], list[Replica]]  # asked for when something is damaged, and once


class Repairer:
    """Mends backups of one region. ``targets``: the stores of each region that is a peer. ``stop`` ends it soon."""

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
        """A region whose record and manifest say that it has the same bytes; they are not read. None: nobody does."""
        with suppress(SnapholdError):
            return next((replica.region for replica in self._replicas(backup)), None)
        return None

    def mend(self, backup: Backup) -> None:
        """Make a backup's objects again what was recorded, as far as other regions have what is damaged.

        Raises:
            Damaged: something is damaged, or gone, there too, or nobody has it; all else was repaired.
            Unavailable, Transient: whoever may have it is silent.
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
            log.info(
                "backup.mended", backup=backup.id, regions=[replica.region for replica in replicas()], repaired=repaired
            )

    def _replicas(self, backup: Backup) -> list[Replica]:
        """Where the same bytes should be. Raises ``Unavailable``, ``Transient`` when only the silent may have them."""
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
                log.warning("backup.no_help", backup=backup.id, region=region, reason=in_full(error))
            else:
                if manifest.data.size_bytes == backup.object_bytes:
                    found.append(Replica(region=region, store=store, manifest=manifest))
        if silent is not None and not found:
            raise silent
        return found

    def _manifest_again(self, backup: Backup, replicas: list[Replica]) -> Manifest:
        """The manifest as it was written, from the catalog and from a twin's; its recorded hash says whether it is."""
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
        """What was repaired of the data object."""
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
        """Bring the whole data object, as a copy does."""
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
            raise Superseded("mending was stopped")


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
    """The backup's own manifest; None where it is damaged or gone."""
    name = manifest_name(backup.id)
    for _ in range(2):  # one bad read verifies nothing
        with suppress(Damaged, ObjectMissing):
            return load(b"".join(store.get(name)), name=name, sha256=backup.manifest_sha256 or "")
    return None


def _repair_index(store: ObjectStore, manifest: Manifest, replicas: Replicas) -> list[str]:
    """What was repaired of the index."""
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
    """One segment's pieces, from the first replica that has it whole. Raises ``Damaged`` when none has."""

    def fetch(replica: Replica) -> list[bytes] | None:
        if not _same_bytes(manifest, replica.manifest):
            return None
        return list(segment_pieces(replica.manifest, replica.store, number, check))

    return _first_whole(replicas, fetch, f"segment {number} of {manifest.data.name} is damaged")


def _first_whole(replicas: list[Replica], fetch: Callable[[Replica], T | None], lost: str) -> T:
    """What the first replica gives that has it. Raises ``Damaged``, in the words of ``lost``, when none has."""
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
    """Why it could not be repaired."""
    if not replicas:
        return "and no other region has it"
    regions = ", ".join(replica.region for replica in replicas)
    return f"and region {regions} does not have it whole" + (f": {harm}" if harm is not None else "")
