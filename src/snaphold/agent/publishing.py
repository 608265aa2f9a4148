"""Putting a backup into the account's store: data, index, and the manifest last."""

import time
from collections.abc import Callable
from typing import Final, Literal

import structlog

from snaphold.agent.lease import Lease
from snaphold.agent.proof import prove_new
from snaphold.agent.room import Room
from snaphold.errors import ObjectExists, SnapholdError
from snaphold.model import rfc3339, segment_prefix
from snaphold.protocol import BackupResult, BackupSpec, ChainLink, Task
from snaphold.steps import Step, reached
from snaphold.store.base import SEGMENT_SIZE
from snaphold.stream.compress import CODECS
from snaphold.stream.manifest import Datastore, Lineage, Manifest, ObjectFacts, Source, sha256_of
from snaphold.stream.proof import receipt_name
from snaphold.stream.segments import Written, discard

_log = structlog.get_logger(__name__)


class Publishing:
    """One attempt at one backup, and what it has put into the store so far.

    A crash leaves objects that the control plane sweeps once it has given the attempt up.
    """

    def __init__(self, room: Room, task: Task, spec: BackupSpec, lease: Lease) -> None:
        self.store = room.stores.of(spec.account)
        self.prefix = segment_prefix(spec.deployment, spec.id, task.attempt)
        self._room = room
        self._attempt = task.attempt
        self._spec = spec
        self._lease = lease
        self._published: list[str] = []  # in the order in which they were put

    def publish(
        self,
        written: Written,
        lineage: Lineage,
        datastore: Datastore,
        *,
        chain: list[ChainLink],
        size_bytes: int,
        made: Literal["taken", "consolidated"] = "taken",
        made_from: str | None = None,
    ) -> BackupResult:
        """Make the segments a backup, and let it prove itself; what the record is to keep of it.

        ``chain``: what it stands on, the parent last; empty for a full one.

        Raises:
            Permanent: it did not pass.
            Overtaken: the attempt was given up meanwhile.
        """
        self._lease.tell(step="publishing")
        spec, settings = self._spec, self._room.settings
        parent_id = chain[-1].backup_id if chain else None
        published, manifest_written, proven = _STEPS[made]
        data = ObjectFacts(
            name=f"{spec.id}.xbstream.{CODECS[settings.codec].suffix}",
            size_bytes=written.size_bytes,
            sha256=written.sha256,
        )
        self._put(data.name, lambda: self._put_data(data, written))
        reached(published)
        index = ObjectFacts(name=f"{spec.id}.index", size_bytes=len(written.index), sha256=sha256_of(written.index))
        self._put(index.name, lambda: self.store.put(index.name, written.index))
        if made == "taken":
            reached(Step.BACKUP_INDEX_WRITTEN)
        manifest = Manifest(
            id=spec.id,
            account=spec.account,
            deployment=spec.deployment,
            attempt=self._attempt,
            name=spec.name,
            description=spec.description,
            source=Source(type=spec.source_type, id=spec.source_id),
            instance_id=spec.instance_id,
            parent_id=parent_id,
            created=spec.created,
            updated=rfc3339(time.time_ns() // 1000),
            is_automated=spec.is_automated,
            made=made,
            made_from=made_from,
            volume_gb=spec.volume_gb,
            flavor_ram_mb=spec.flavor_ram_mb,
            size_bytes=size_bytes,
            stream_bytes=written.stream_bytes,
            codec=settings.codec,
            level=settings.compression_level,
            datastore=datastore,
            lineage=lineage,
            data=data,
            index=index,
            segment_size_bytes=SEGMENT_SIZE,
            segments=written.segments,
        )
        document, name = manifest.dump(), f"{spec.id}.json"
        self._lease.confirm()
        self._put(name, lambda: self.store.put(name, document))
        reached(manifest_written)
        _log.info(
            "backup published",
            made=made,
            parent=parent_id,
            size_bytes=size_bytes,
            object_bytes=data.size_bytes,
            segments=len(written.segments),
        )
        manifest_sha256 = sha256_of(document)
        proof = None
        if spec.verify is not None:
            self._published.insert(0, receipt_name(spec.id))  # undone last: the manifest goes first
            link = ChainLink(backup_id=spec.id, account=spec.account, manifest_sha256=manifest_sha256)
            proof = prove_new(self._room, [*chain, link], spec.verify, self._lease)
            reached(proven)
        return BackupResult(
            manifest_sha256=manifest_sha256,
            parent_id=parent_id,
            size_bytes=size_bytes,
            object_bytes=data.size_bytes,
            object_name=data.name,
            incarnation=lineage.incarnation,
            from_lsn=lineage.from_lsn,
            checkpoint_lsn=lineage.checkpoint_lsn,
            to_lsn=lineage.to_lsn,
            updated=manifest.updated,
            proof=proof,
        )

    def undo(self) -> None:
        """Remove what was put, the manifest first. What cannot be removed now is swept by the control plane."""
        try:
            for name in reversed(self._published):
                self.store.delete(name)
            discard(self.store, self.prefix)
        except SnapholdError as error:
            _log.warning("backup not removed", reason=str(error))

    def _put_data(self, data: ObjectFacts, written: Written) -> None:
        self.store.publish(data.name, self.prefix, len(written.segments), size_bytes=data.size_bytes)

    def _put(self, name: str, put: Callable[[], None]) -> None:
        """Put an object under a name that must be free; it is ours from the first try on, unless it is not."""
        self._published.append(name)
        try:
            put()
        except ObjectExists:
            self._published.remove(name)
            raise


_STEPS: Final[dict[str, tuple[Step, Step, Step]]] = {
    "taken": (Step.BACKUP_PUBLISHED, Step.BACKUP_MANIFEST_WRITTEN, Step.BACKUP_PROVEN),
    "consolidated": (Step.CONSOLIDATE_PUBLISHED, Step.CONSOLIDATE_MANIFEST_WRITTEN, Step.CONSOLIDATE_PROVEN),
}
