"""Publishes a backup in the account's store: the data object, the index, and the manifest last."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.agent.verification import verify_new
from snaphold.errors import ObjectExists, SnapholdError, in_full
from snaphold.facts import result_of
from snaphold.formats.backup_facts import facts_of, new_manifest
from snaphold.formats.manifest import DataFacts, DatastoreFacts, IndexFacts, Lineage, Manifest, sha256_of
from snaphold.objects import (
    data_name,
    index_name,
    manifest_name,
    segment_prefix,
    verification_record_name,
)
from snaphold.protocol import BackupResult, BackupSpec, ChainLink, Task, VerificationResult
from snaphold.steps import Step, reached
from snaphold.stream.compress import CODECS
from snaphold.stream.segments import Written, discard

_log = structlog.get_logger(__name__)


class Publishing:
    """The objects that one attempt at a backup has written so far.

    A crash leaves objects, which the control plane removes after it has abandoned the attempt.
    """

    def __init__(self, context: TaskContext, task: Task, spec: BackupSpec, lease: Lease) -> None:
        self.store = context.stores.of(spec.account)
        self.prefix = segment_prefix(spec.deployment, spec.id, task.attempt)
        self._context = context
        self._attempt = task.attempt
        self._spec = spec
        self._lease = lease
        self._published: list[str] = []  # names, in the order in which they were written

    def publish(
        self,
        written: Written,
        lineage: Lineage,
        datastore: DatastoreFacts,
        *,
        chain: list[ChainLink],
        size_bytes: int,
        made: Literal["taken", "consolidated"] = "taken",
        made_from: str | None = None,
    ) -> BackupResult:
        """Make the segments a backup, verify it, and return what the catalog records.

        ``chain``: the backups that it depends on, the parent last; empty for a full backup.

        Raises:
            Permanent: the verification failed.
            Superseded: the attempt was abandoned.
        """
        self._lease.tell(step="publishing")
        steps = _STEPS[made]
        data = self._put_data(written)
        reached(steps.published)
        index = self._put_index(written.index)
        if steps.index_written is not None:
            reached(steps.index_written)
        spec, settings = self._spec, self._context.settings
        manifest = new_manifest(
            spec,
            attempt=self._attempt,
            parent_id=chain[-1].backup_id if chain else None,
            updated_us=time.time_ns() // 1000,
            made=made,
            made_from=made_from,
            size_bytes=size_bytes,
            datastore=datastore,
            lineage=lineage,
            stream_bytes=written.stream_bytes,
            codec=settings.codec,
            level=settings.compression_level,
            data=data,
            index=index,
            segment_size_bytes=written.segment_size,
            segments=written.segments,
        )
        link = self._put_manifest(manifest)
        reached(steps.manifest_written)
        proof = self._verification([*chain, link], manifest, steps.verified, taken=made == "taken")
        return result_of(facts_of(manifest), link.manifest_sha256, from_lsn=lineage.from_lsn, proof=proof)

    def undo(self) -> None:
        """Remove what was written, the manifest first. The control plane removes what is left."""
        try:
            for name in reversed(self._published):
                self.store.delete(name)
            discard(self.store, self.prefix)
        except SnapholdError as error:
            _log.warning("backup.not_removed", reason=in_full(error))

    def _put_data(self, written: Written) -> DataFacts:
        """Publish the segments as the data object."""
        suffix = CODECS[self._context.settings.codec].suffix
        name, count = data_name(self._spec.id, suffix), len(written.segments)
        self._put(
            name,
            lambda: self.store.publish(
                name, self.prefix, count, size_bytes=written.size_bytes, segment_size=written.segment_size
            ),
        )
        return DataFacts(name=name, size_bytes=written.size_bytes)

    def _put_index(self, content: bytes) -> IndexFacts:
        name = index_name(self._spec.id)
        self._put(name, lambda: self.store.put(name, content))
        return IndexFacts(name=name, size_bytes=len(content), sha256=sha256_of(content))

    def _put_manifest(self, manifest: Manifest) -> ChainLink:
        """Write the manifest, which makes the objects a backup. Raises ``Superseded`` if the attempt was abandoned."""
        name, document = manifest_name(manifest.id), manifest.dump()
        self._lease.confirm()
        self._put(name, lambda: self.store.put(name, document))
        _log.info(
            "backup.published",
            made=manifest.made,
            parent=manifest.parent_id,
            size_bytes=manifest.size_bytes,
            object_bytes=manifest.data.size_bytes,
            segments=len(manifest.segments),
        )
        return ChainLink(backup_id=manifest.id, account=manifest.account, manifest_sha256=sha256_of(document))

    def _verification(
        self, links: list[ChainLink], manifest: Manifest, verified: Step, *, taken: bool
    ) -> VerificationResult | None:
        """Verify the backup at the level that the task asks for, if any. ``taken``: from a server of this host."""
        if self._spec.verify is None:
            return None
        self._published.insert(0, verification_record_name(self._spec.id))  # removed last: the manifest goes first
        source = self._context.servers.access(self._spec.instance_id).administer if taken else None
        expected_bytes = manifest.data.size_bytes
        proof = verify_new(
            self._context, links, self._spec.verify, self._lease, expected_bytes=expected_bytes, source=source
        )
        reached(verified)
        return proof

    def _put(self, name: str, put: Callable[[], None]) -> None:
        """Write an object under a name that must be free. It counts as ours at once, even if the call fails midway."""
        self._published.append(name)
        try:
            put()
        except ObjectExists:
            self._published.remove(name)
            raise


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """The steps of publishing: each way to make a backup has its own."""

    published: Step
    index_written: Step | None
    manifest_written: Step
    verified: Step


_STEPS: Final = {
    "taken": _Steps(
        published=Step.BACKUP_PUBLISHED,
        index_written=Step.BACKUP_INDEX_WRITTEN,
        manifest_written=Step.BACKUP_MANIFEST_WRITTEN,
        verified=Step.BACKUP_VERIFIED,
    ),
    "consolidated": _Steps(
        published=Step.CONSOLIDATE_PUBLISHED,
        index_written=None,
        manifest_written=Step.CONSOLIDATE_MANIFEST_WRITTEN,
        verified=Step.CONSOLIDATE_VERIFIED,
    ),
}
