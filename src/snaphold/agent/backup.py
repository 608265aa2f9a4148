"""Taking a backup: from a running server into the account's store, the manifest last."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from snaphold.agent.lease import Lease
from snaphold.agent.proof import prove_new
from snaphold.agent.room import Room
from snaphold.engines.base import Taken
from snaphold.errors import ObjectExists, Overtaken, Permanent, SnapholdError
from snaphold.model import rfc3339, segment_prefix
from snaphold.protocol import BackupResult, BackupSpec, ChainLink, ProofResult, Task
from snaphold.steps import Step, reached
from snaphold.store.base import SEGMENT_SIZE
from snaphold.stream.compress import CODECS
from snaphold.stream.manifest import Datastore, Lineage, Manifest, ObjectFacts, Source, sha256_of
from snaphold.stream.proof import receipt_name
from snaphold.stream.segments import Written, discard, write_backup
from snaphold.stream.xbstream import Watch

MEGABYTE: Final = 1_000_000  # bytes; of a rate

_log = structlog.get_logger(__name__)


@contextmanager
def taken_backup(room: Room, task: Task, spec: BackupSpec, lease: Lease) -> Iterator[BackupResult]:
    """Take a full backup; the body of the ``with`` reports it.

    What fails here, or is overtaken, leaves nothing in the store: the manifest goes first. A crash leaves objects that
    the control plane sweeps once it has given the attempt up. While nobody knows whether the report was accepted, all
    stays: the record decides.
    """
    attempt = _Attempt(room, task, spec, lease)
    try:
        result = attempt.take()
    except BaseException:
        attempt.undo()
        raise
    try:
        yield result
    except Overtaken:
        attempt.undo()
        raise
    reached(Step.BACKUP_REPORTED)


class _Attempt:
    """One attempt at one backup, and what it has put into the store so far."""

    def __init__(self, room: Room, task: Task, spec: BackupSpec, lease: Lease) -> None:
        self._room = room
        self._task = task
        self._spec = spec
        self._lease = lease
        self._store = room.stores.of(spec.account)
        self._prefix = segment_prefix(spec.deployment, spec.id, task.attempt)
        self._published: list[str] = []  # in the order in which they were put

    def take(self) -> BackupResult:
        """Measure, stream, publish; what the record is to keep of it."""
        spec = self._spec
        reached(Step.BACKUP_CLAIMED)
        if spec.parent_id is not None:
            raise Permanent("this agent takes full backups only")
        incarnation = self._room.servers.incarnation(spec.instance_id)
        size_bytes = self._room.servers.result(spec.instance_id).used_bytes
        self._lease.tell(step="taking", size_bytes=size_bytes, done_bytes=0, expected_bytes=size_bytes)
        reached(Step.BACKUP_MEASURED)
        written, taken = self._room.nicely(self._stream)
        reached(Step.BACKUP_SEGMENTS_WRITTEN)
        self._lease.tell(step="publishing")
        data = ObjectFacts(
            name=f"{spec.id}.xbstream.{CODECS[self._room.settings.codec].suffix}",
            size_bytes=written.size_bytes,
            sha256=written.sha256,
        )
        self._publish(data.name, lambda: self._publish_data(data, written))
        reached(Step.BACKUP_PUBLISHED)
        index = ObjectFacts(name=f"{spec.id}.index", size_bytes=len(written.index), sha256=sha256_of(written.index))
        self._publish(index.name, lambda: self._store.put(index.name, written.index))
        reached(Step.BACKUP_INDEX_WRITTEN)
        manifest = self._manifest(
            written, taken, data=data, index=index, size_bytes=size_bytes, incarnation=incarnation
        )
        document, name = manifest.dump(), f"{spec.id}.json"
        self._lease.confirm()
        self._publish(name, lambda: self._store.put(name, document))
        reached(Step.BACKUP_MANIFEST_WRITTEN)
        _log.info(
            "backup published", size_bytes=size_bytes, object_bytes=data.size_bytes, segments=len(written.segments)
        )
        proof = self._prove(sha256_of(document))
        return BackupResult(
            manifest_sha256=sha256_of(document),
            parent_id=manifest.parent_id,
            size_bytes=size_bytes,
            object_bytes=data.size_bytes,
            object_name=data.name,
            incarnation=incarnation,
            from_lsn=taken.from_lsn,
            checkpoint_lsn=taken.checkpoint_lsn,
            to_lsn=taken.to_lsn,
            updated=manifest.updated,
            proof=proof,
        )

    def _prove(self, manifest_sha256: str) -> ProofResult | None:
        """Let the backup prove itself, where that was asked for."""
        spec = self._spec
        if spec.verify is None:
            return None
        self._published.insert(0, receipt_name(spec.id))  # undone last: the manifest goes first
        link = ChainLink(backup_id=spec.id, account=spec.account, manifest_sha256=manifest_sha256)
        proof = prove_new(self._room, [*self._task.chain, link], spec.verify, self._lease)
        reached(Step.BACKUP_PROVEN)
        return proof

    def undo(self) -> None:
        """Remove what was put, the manifest first. What cannot be removed now is swept by the control plane."""
        try:
            for name in reversed(self._published):
                self._store.delete(name)
            discard(self._store, self._prefix)
        except SnapholdError as error:
            _log.warning("backup not removed", reason=str(error))

    def _stream(self) -> tuple[Written, Taken]:
        """Run the backup tool and put what it says as segments. A stream read to its end is a good one."""
        settings, watch = self._room.settings, Watch()
        engine = self._room.engines[self._spec.datastore]
        server = self._room.servers.access(self._spec.instance_id)
        with engine.take(server, parent_lsn=None, lock_wait_timeout_s=settings.lock_wait_timeout_s) as stream:
            reached(Step.BACKUP_TOOL_STARTED)
            written = write_backup(
                stream.readinto,
                self._store,
                self._prefix,
                codec=settings.codec,
                level=settings.compression_level,
                threads=settings.compression_threads,
                max_bytes_per_s=settings.max_backup_mb_per_s * MEGABYTE,
                watch=watch,
                kill=stream.kill,
                on_progress=lambda count: self._lease.tell(done_bytes=count),
                stop=self._lease.stop,
            )
            return written, stream.taken(watch.captured)

    def _publish_data(self, data: ObjectFacts, written: Written) -> None:
        self._store.publish(data.name, self._prefix, len(written.segments), size_bytes=data.size_bytes)

    def _publish(self, name: str, put: Callable[[], None]) -> None:
        """Put an object under a name that must be free; it is ours from the first try on, unless it is not."""
        self._published.append(name)
        try:
            put()
        except ObjectExists:
            self._published.remove(name)
            raise

    def _manifest(
        self,
        written: Written,
        taken: Taken,
        *,
        data: ObjectFacts,
        index: ObjectFacts,
        size_bytes: int,
        incarnation: str,
    ) -> Manifest:
        spec = self._spec
        return Manifest(
            id=spec.id,
            account=spec.account,
            deployment=spec.deployment,
            attempt=self._task.attempt,
            name=spec.name,
            description=spec.description,
            source=Source(type=spec.source_type, id=spec.source_id),
            instance_id=spec.instance_id,
            parent_id=spec.parent_id,
            created=spec.created,
            updated=rfc3339(time.time_ns() // 1000),
            is_automated=spec.is_automated,
            volume_gb=spec.volume_gb,
            flavor_ram_mb=spec.flavor_ram_mb,
            size_bytes=size_bytes,
            stream_bytes=written.stream_bytes,
            codec=self._room.settings.codec,
            level=self._room.settings.compression_level,
            datastore=Datastore(
                type=spec.datastore,
                version=spec.version,
                version_id=spec.version_id,
                server_version=taken.server_version,
                tool_version=taken.tool_version,
            ),
            lineage=Lineage(
                incarnation=incarnation,
                from_lsn=taken.from_lsn,
                checkpoint_lsn=taken.checkpoint_lsn,
                to_lsn=taken.to_lsn,
                last_lsn=taken.last_lsn,
                gtid=taken.gtid,
            ),
            data=data,
            index=index,
            segment_size_bytes=SEGMENT_SIZE,
            segments=written.segments,
        )
