"""Mending backups: what is damaged here is fetched from another region that has the same bytes.

    data object, segment by segment → index → manifest

Only what differs is fetched, and its hash is checked before it takes the place of anything. So a try that was cut
short, or that found the other side damaged too, leaves nothing worse than it was. A mend is the first half of a proof
(:mod:`snaphold.worker.verification`), which then reads everything back.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeVar

import structlog

from snaphold.catalog import backups
from snaphold.errors import Damaged, ObjectMissing, Overtaken, SnapholdError, Transient, Unavailable, in_full
from snaphold.model import Backup, rfc3339, rfc3339_exact, segment_prefix
from snaphold.service.copies import counterparts_of
from snaphold.service.deployment import Deployment
from snaphold.steps import Step, reached
from snaphold.store.base import Containers, ObjectStore, OwnStore, Stores
from snaphold.stream.courtesy import Courtesy
from snaphold.stream.manifest import Manifest, load, sha256_of
from snaphold.stream.proof import damaged_segments, prove_index
from snaphold.stream.segments import discard, segment_pieces
from snaphold.stream.transfer import bring_data

log = structlog.get_logger()

T = TypeVar("T")

_MEND: Final = 0  # the attempt whose prefix a data object that is gone is brought under; those of hosts begin at 1
_ATTEMPTS: Final = 100  # as which one a host may have taken a backup whose manifest is gone


@dataclass(frozen=True, kw_only=True)
class Twin:
    """The same backup in another region's store, with its manifest there."""

    region: str
    store: ObjectStore
    manifest: Manifest


Twins = Callable[[], list[Twin]]  # asked for when something is damaged, and once


class Mender:
    """Mends backups of one region. ``targets``: the stores of each region that is a peer. ``stop`` ends it soon."""

    def __init__(
        self, deployment: Deployment, stores: Stores, targets: Mapping[str, Containers], stop: threading.Event,
        courtesy: Courtesy,
    ) -> None:  # fmt: skip
        self._deployment = deployment
        self._stores = stores
        self._targets = targets
        self._stop = stop
        self._courtesy = courtesy

    def offer(self, backup: Backup) -> str | None:
        """A region whose record and manifest say that it has the same bytes; they are not read. None: nobody does."""
        with suppress(SnapholdError):
            return next((twin.region for twin in self._twins(backup)), None)
        return None

    def mend(self, backup: Backup) -> None:
        """Make a backup's objects again what was recorded, as far as other regions have what is damaged.

        Raises:
            Damaged: something is damaged, or gone, there too, or nobody has it; all else was mended.
            Unavailable, Transient: whoever may have it is silent.
            Overtaken: the process is being stopped.
        """
        reached(Step.MEND_BEGUN)
        store = self._stores.of(backup.account)
        twins: Twins = cache(lambda: self._twins(backup))
        manifest = _manifest_here(store, backup)
        lost = manifest is None
        if manifest is None:
            manifest = self._manifest_again(backup, twins())
        mended = self._mend_data(store, backup, manifest, twins)
        reached(Step.MEND_DATA_WRITTEN)
        mended += _mend_index(store, manifest, twins)
        reached(Step.MEND_INDEX_WRITTEN)
        if lost:
            store.replace(f"{backup.id}.json", manifest.dump())
            mended.append("manifest")
        reached(Step.MEND_MANIFEST_WRITTEN)
        if mended:
            log.info("backup.mended", backup=backup.id, regions=[twin.region for twin in twins()], mended=mended)

    def _twins(self, backup: Backup) -> list[Twin]:
        """Where the same bytes should be. Raises ``Unavailable``, ``Transient`` when only the silent may have them."""
        found, silent = [], None
        for region, there in counterparts_of(self._deployment, backup).items():
            if region not in self._targets:
                continue
            store, name = self._targets[region].of(backup.account), f"{there.id}.json"
            try:
                manifest = load(b"".join(store.get(name)), name=name, sha256=there.manifest_sha256)
            except (Transient, Unavailable) as error:
                silent = error
            except SnapholdError as error:
                log.warning("backup.no_help", backup=backup.id, region=region, reason=in_full(error))
            else:
                if manifest.data.size_bytes == backup.object_bytes:
                    found.append(Twin(region=region, store=store, manifest=manifest))
        if silent is not None and not found:
            raise silent
        return found

    def _manifest_again(self, backup: Backup, twins: list[Twin]) -> Manifest:
        """The manifest as it was written, from the record and from a twin's; its recorded hash says whether it is."""
        with self._deployment.catalog.reading() as tx:
            parent = None if backup.parent_id is None else backups.get(tx, backup.parent_id)
        for twin in twins:
            like = twin.manifest.model_copy(
                update={
                    "id": backup.id,
                    "deployment": self._deployment.deployment_id,
                    "name": backup.name,
                    "description": backup.description,
                    "parent_id": backup.parent_id,
                    "created": rfc3339_exact(backup.created_us),
                    "updated": rfc3339(backup.updated_us),
                    "is_automated": backup.is_automated,
                    "made": backup.made.value,
                    "made_from": backup.made_from,
                    "made_from_region": backup.made_from_region,
                    "lineage": twin.manifest.lineage.model_copy(
                        update={"parent_manifest_sha256": None if parent is None else parent.manifest_sha256}
                    ),
                    "data": twin.manifest.data.model_copy(update={"name": backup.object_name}),
                    "index": twin.manifest.index.model_copy(update={"name": f"{backup.id}.index"}),
                }
            )
            for attempt in range(1, _ATTEMPTS + 1):
                manifest = like.model_copy(update={"attempt": attempt})
                if sha256_of(manifest.dump()) == backup.manifest_sha256:
                    return manifest
        raise Damaged(f"the manifest {backup.id}.json is damaged or gone, {_nobody(twins)}")

    def _mend_data(self, store: OwnStore, backup: Backup, manifest: Manifest, twins: Twins) -> list[str]:
        """What was mended of the data object."""
        name, size_bytes = manifest.data.name, manifest.data.size_bytes
        try:
            damaged = damaged_segments(
                store,
                manifest,
                threads=self._deployment.settings.compression_threads,
                courtesy=self._courtesy,
                stop=self._stop,
            )
        except ObjectMissing:
            self._bring_all(store, backup, manifest, twins())
            return ["data object"]
        harm = None
        for number in damaged:
            try:
                pieces = _whole(manifest, number, twins(), self._check)
            except Damaged as error:
                harm = harm or error
                continue
            store.overwrite(name, number * manifest.segment_size_bytes, pieces, size_bytes=size_bytes)
            reached(Step.MEND_SEGMENT_WRITTEN)
        if harm is not None:
            raise harm
        if store.size(name) != size_bytes:  # longer than it was written
            store.overwrite(name, 0, [], size_bytes=size_bytes)
        return [f"segment {number}" for number in damaged]

    def _bring_all(self, store: ObjectStore, backup: Backup, manifest: Manifest, twins: list[Twin]) -> None:
        """Bring the whole data object, as a copy does."""
        prefix = segment_prefix(self._deployment.deployment_id, backup.id, _MEND)

        def bring(twin: Twin) -> bool | None:
            if not _same_bytes(manifest, twin.manifest):
                return None
            bring_data(twin.manifest, twin.store, store, manifest.data.name, prefix, stop=self._stop)
            return True

        try:
            _first_whole(twins, bring, f"{manifest.data.name} is gone")
        except Damaged:
            discard(store, prefix)
            raise

    def _check(self) -> None:
        if self._stop.is_set():
            raise Overtaken("mending was stopped")


def _manifest_here(store: ObjectStore, backup: Backup) -> Manifest | None:
    """The backup's own manifest; None where it is damaged or gone."""
    name = f"{backup.id}.json"
    for _ in range(2):  # one bad read proves nothing
        with suppress(Damaged, ObjectMissing):
            return load(b"".join(store.get(name)), name=name, sha256=backup.manifest_sha256 or "")
    return None


def _mend_index(store: ObjectStore, manifest: Manifest, twins: Twins) -> list[str]:
    """What was mended of the index."""
    index = manifest.index
    try:
        prove_index(store, index)
    except (Damaged, ObjectMissing):
        pass
    else:
        return []

    def fetch(twin: Twin) -> bytes | None:
        data = b"".join(twin.store.get(twin.manifest.index.name))
        return data if sha256_of(data) == index.sha256 else None

    store.replace(index.name, _first_whole(twins(), fetch, f"the index {index.name} is damaged or gone"))
    return ["index"]


def _whole(manifest: Manifest, number: int, twins: list[Twin], check: Callable[[], None]) -> list[bytes]:
    """One segment's pieces, from the first twin that has it whole. Raises ``Damaged`` when none has."""

    def fetch(twin: Twin) -> list[bytes] | None:
        if not _same_bytes(manifest, twin.manifest):
            return None
        return list(segment_pieces(twin.manifest, twin.store, number, check))

    return _first_whole(twins, fetch, f"segment {number} of {manifest.data.name} is damaged")


def _first_whole(twins: list[Twin], fetch: Callable[[Twin], T | None], lost: str) -> T:
    """What the first twin gives that has it. Raises ``Damaged``, in the words of ``lost``, when none has."""
    harm: SnapholdError | None = None
    for twin in twins:
        try:
            found = fetch(twin)
        except (Damaged, ObjectMissing) as error:
            harm = error
        else:
            if found is not None:
                return found
    raise Damaged(f"{lost}, {_nobody(twins, harm)}")


def _same_bytes(one: Manifest, other: Manifest) -> bool:
    return (one.segments, one.segment_size_bytes) == (other.segments, other.segment_size_bytes)


def _nobody(twins: list[Twin], harm: SnapholdError | None = None) -> str:
    """Why it could not be mended."""
    if not twins:
        return "and no other region has it"
    regions = ", ".join(twin.region for twin in twins)
    return f"and region {regions} does not have it whole" + (f": {harm}" if harm is not None else "")
