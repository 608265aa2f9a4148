"""Takes backups: streams a running server into the account's store, and writes the manifest last."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from snaphold.agent.chain import Chain
from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.agent.publishing import Publishing
from snaphold.agent.scan_progress import ScanProgress
from snaphold.agent.verification import verify_chain
from snaphold.disk import birth_ns
from snaphold.engines.base import BackupMetadata, NoIncrement, SourceChanged
from snaphold.errors import Permanent, Superseded
from snaphold.formats.manifest import DatastoreFacts, Lineage, Manifest
from snaphold.formats.xbstream import Watch
from snaphold.model import MB
from snaphold.protocol import BackupResult, BackupSpec, Task
from snaphold.steps import Step, reached
from snaphold.stream.segments import Written, discard, write_backup

_log = structlog.get_logger(__name__)


@contextmanager
def taken_backup(context: TaskContext, task: Task, spec: BackupSpec, lease: Lease) -> Iterator[BackupResult]:
    """Take a backup, full or an increment on its parent; the body of the ``with`` reports it.

    An attempt that fails or is superseded removes its objects, the manifest first. A crash leaves objects, which the
    control plane removes after it has abandoned the attempt. When nobody knows whether the report was accepted, the
    objects stay: the catalog decides whether they are a backup.
    """
    publishing = Publishing(context, task, spec, lease)
    try:
        result = _Attempt(context, task, spec, lease, publishing).take()
    except BaseException:
        publishing.undo()
        raise
    try:
        yield result
    except Superseded:
        publishing.undo()
        raise
    reached(Step.BACKUP_REPORTED)


class _Changed(NoIncrement):
    """The backup lacks files that were replaced while it was taken; the next one may have them."""


class _Attempt:
    """One attempt at one backup."""

    def __init__(
        self, context: TaskContext, task: Task, spec: BackupSpec, lease: Lease, publishing: Publishing
    ) -> None:
        self._context = context
        self._task = task
        self._spec = spec
        self._lease = lease
        self._publishing = publishing
        self._engine = context.engines.of(spec.datastore, spec.version)

    def take(self) -> BackupResult:
        """Measure, stream and publish; return what the catalog records.

        If no increment can be taken on the parent, and the client did not name the parent, a full backup is taken
        instead; the result shows that. Failures with other causes (the store is full, the tool was killed, a client
        holds a lock) are not tried again as a full backup, which would fail in the same way.
        """
        spec = self._spec
        reached(Step.BACKUP_CLAIMED)
        parent = self._usable_parent()
        if parent is not None:  # a server whose log is behind this LSN has other data: another incarnation
            self._context.servers.saw_lsn(spec.instance_id, parent.lineage.incarnation, parent.lineage.last_lsn)
        incarnation = self._context.servers.incarnation(
            spec.instance_id, max_lsn=spec.max_lsn, ended=spec.ended_incarnation
        )
        size_bytes = self._context.servers.result(spec.instance_id).used_bytes
        self._lease.tell(step="taking", size_bytes=size_bytes, done_bytes=0, expected_bytes=size_bytes)
        reached(Step.BACKUP_MEASURED)
        try:
            written, taken, imported = self._streamed(parent, incarnation, size_bytes)
        except (NoIncrement, SourceChanged) as error:  # a full backup would not help against anything else
            if parent is None or spec.parent_named:
                raise
            _log.warning("backup.full_instead", parent=spec.parent_id, reason=str(error))
            self._discard_segments(size_bytes)
            parent = None
            written, taken, imported = self._streamed(None, incarnation, size_bytes)
        self._context.servers.saw_lsn(spec.instance_id, incarnation, taken.last_lsn)
        reached(Step.BACKUP_SEGMENTS_WRITTEN)
        return self._publishing.publish(
            written,
            Lineage(
                incarnation=incarnation,
                from_lsn=taken.from_lsn,
                checkpoint_lsn=taken.checkpoint_lsn,
                to_lsn=taken.to_lsn,
                last_lsn=taken.last_lsn,
                gtid=taken.gtid,
                parent_manifest_sha256=None if parent is None else self._task.chain[-1].manifest_sha256,
                imported=sorted(imported),
                unfinished=sorted(taken.unfinished),
            ),
            DatastoreFacts(
                type=spec.datastore,
                version=spec.version,
                version_id=spec.version_id,
                server_version=taken.server_version,
                tool_version=taken.tool_version,
            ),
            chain=[] if parent is None else self._task.chain,
            size_bytes=size_bytes,
        )

    def _usable_parent(self) -> Manifest | None:
        """The parent; None for a full backup, and when it cannot be used and the client did not name it."""
        try:
            return self._parent()
        except Permanent as error:
            if self._spec.parent_named:
                raise
            _log.warning("backup.full_instead", parent=self._spec.parent_id, reason=str(error))
            return None

    def _streamed(
        self, parent: Manifest | None, incarnation: str, size_bytes: int
    ) -> tuple[Written, BackupMetadata, set[str]]:
        """Stream the backup; a second time when the tool lost a race with the server's clients.

        Also returns the imported tablespaces that existed when it began. Raises as ``_stream`` does.
        """
        try:
            return self._context.low_priority(self._stream, parent, incarnation)
        except (SourceChanged, _Changed) as error:
            _log.warning("backup.retried", reason=str(error))
            self._discard_segments(size_bytes)
            return self._context.low_priority(self._stream, parent, incarnation)

    def _discard_segments(self, size_bytes: int) -> None:
        """Remove the segments that were written, and restart the progress."""
        self._lease.check()
        discard(self._publishing.store, self._publishing.prefix)
        self._lease.tell(done_bytes=0, expected_bytes=size_bytes)

    def _parent(self) -> Manifest | None:
        """The manifest of the parent; None for a full backup. With ``verify``, its whole chain is good.

        Raises:
            ObjectMissing, Damaged: the parent, or a backup that it depends on, is not what was recorded.
            Permanent: the parent is a backup of another instance, or cannot be read.
        """
        spec = self._spec
        if spec.parent_id is None:
            return None
        parent = Chain.opened(self._context.stores, self._task.chain).newest
        if parent.id != spec.parent_id or parent.instance_id != spec.instance_id:
            raise Permanent(f"the parent {spec.parent_id} is not a backup of this instance")
        if spec.verify is not None:
            self._lease.tell(step="checking parent")
            verify_chain(self._context, self._task.chain, self._lease)
        return parent

    def _check_parent(self, parent: Manifest, incarnation: str, imported: set[str]) -> None:
        """Raise ``NoIncrement`` unless the parent holds an earlier state of the data that the instance has now."""
        spec = self._spec
        if (parent.datastore.type, parent.datastore.version) != (spec.datastore, spec.version):
            raise NoIncrement(
                f"the parent {parent.id} is of {parent.datastore.type} {parent.datastore.version}, "
                f"the instance is {spec.datastore} {spec.version} now: take a full backup first"
            )
        if parent.lineage.incarnation != incarnation:
            raise NoIncrement(
                f"the instance's data was restored or replaced since its parent {parent.id} was taken: "
                "take a full backup first"
            )
        if parent.lineage.checkpoint_lsn is None:
            raise NoIncrement(f"the parent {parent.id} has no checkpoint that an increment could start from")
        if imported - set(parent.lineage.imported):
            raise NoIncrement(
                f"a tablespace was imported since the parent {parent.id} was taken; an increment would not contain it: "
                "take a full backup first"
            )

    def _stream(self, parent: Manifest | None, incarnation: str) -> tuple[Written, BackupMetadata, set[str]]:
        """Run the backup tool and store its output as segments. A stream that was read to its end is complete.

        Raises:
            NoIncrement: the increment would be incomplete, or the parent does not fit the instance's data.
            SourceChanged, SourceLocked: clients of the server interfered.
        """
        imported = self._imported()
        if parent is not None:
            self._check_parent(parent, incarnation, imported)
        settings, watch = self._context.settings, Watch(self._engine.captures)
        server = self._context.servers.access(self._spec.instance_id)
        scanned = None if parent is None else ScanProgress(server.data_directory, watch)
        parent_lsn = None if parent is None else parent.lineage.checkpoint_lsn
        with self._engine.take(
            server, parent_lsn=parent_lsn, lock_wait_timeout_s=settings.lock_wait_timeout_s
        ) as stream:
            reached(Step.BACKUP_TOOL_STARTED)
            written = write_backup(
                stream.readinto,
                self._publishing.store,
                self._publishing.prefix,
                codec=settings.codec,
                level=settings.compression_level,
                threads=settings.compression_threads,
                max_bytes_per_s=settings.max_backup_mb_per_s * MB,
                watch=watch,
                kill=stream.kill,
                on_progress=lambda count: self._lease.tell(done_bytes=count if scanned is None else scanned.bytes()),
                stop=self._lease.stop,
            )
            taken = stream.taken(watch.captured)
        if self._imported() - imported:
            raise _Changed("a tablespace was imported while the backup was taken; the backup does not contain it")
        if parent is not None:
            paths = [file.path for file in watch.files if file.present]
            if lost := self._engine.lost_tables(server, paths, watch.captured):
                raise _Changed(f"the increment has no data of the table {lost[0]}: take a full backup first")
            if cut := self._engine.cut_tables(watch.captured, parent.lineage.unfinished):
                raise NoIncrement(
                    f"the table {cut[0]} was being rebuilt while the parent {parent.id} was taken; the parent "
                    "has no data of it: take a full backup first"
                )
        return written, taken, imported

    def _imported(self) -> set[str]:
        """The imported tablespaces that the instance has now: ``id:inode:birth`` of each file."""
        server = self._context.servers.access(self._spec.instance_id)
        found = set()
        for path, space_id in self._engine.imported(server).items():
            try:
                found.add(f"{space_id}:{path.lstat().st_ino}:{birth_ns(path)}")
            except FileNotFoundError:  # a client dropped it
                continue
        return found
