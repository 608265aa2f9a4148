"""Verifies backups on a host: right after they were made, and later by a restore into a scratch server."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from snaphold import __version__
from snaphold.agent.chain import Chain
from snaphold.agent.context import TaskContext
from snaphold.agent.lease import Lease
from snaphold.engines.base import Administer
from snaphold.errors import Damaged, ObjectMissing, Permanent, SnapholdError, Superseded, Transient, in_full
from snaphold.formats.manifest import Manifest
from snaphold.formats.verification_record import Checksums, ObjectFacts, VerificationRecord
from snaphold.model import VerificationLevel, VerificationStatus, rfc3339
from snaphold.objects import manifest_name, object_prefix, verification_record_name
from snaphold.protocol import ChainLink, InstanceSpec, Task, VerificationResult
from snaphold.reasons import reason_of
from snaphold.steps import Step, reached
from snaphold.stream.verification import (
    Ancestor,
    damage_below,
    object_facts,
    read_verification_record,
    verdict_on,
    verify_ancestors,
    verify_index,
    verify_objects,
    write_verification_record,
)

_NAMED: Final = 10  # how many tables a result names
_RAM_MB: Final = 512  # of a scratch server
_ASK_AGAIN_S: Final = 5.0  # between two tries to read from a store that does not answer
_STOP_POLL_S: Final = 0.2

_log = structlog.get_logger(__name__)


@contextmanager
def verified_backup(context: TaskContext, task: Task, lease: Lease) -> Iterator[VerificationResult]:
    """Restore a backup into a scratch server and check it; the body of the ``with`` reports the result.

    It leaves nothing on this host; what a crash leaves is removed by ``clear_leftovers``.

    Raises:
        Superseded: the attempt was abandoned.
    """
    reached(Step.VERIFY_CLAIMED)
    begun_s = time.monotonic()
    try:
        result = verify(context, task.chain, VerificationLevel.RESTORE, lease)
    except (Permanent, Transient) as error:
        result = _unverified(context, task.chain[-1], error, time.monotonic() - begun_s)
    reached(Step.VERIFY_KEPT)
    try:
        yield result
    except Superseded:
        _remove_stray_record(context, task.chain[-1])
        raise
    reached(Step.VERIFY_REPORTED)


def verify_new(
    context: TaskContext,
    links: list[ChainLink],
    level: VerificationLevel,
    lease: Lease,
    *,
    expected_bytes: int,
    source: Administer | None,
) -> VerificationResult:
    """Verify a new backup, the last one of ``links``, before it is reported.

    ``expected_bytes``: how many bytes will be read, for the progress. ``source``: runs statements in the server that
    the backup was just taken from; None if it was made from other backups.

    Raises:
        Permanent: the verification failed, or the store did not answer for ``verify_wait_s``.
        Superseded: the attempt was abandoned.
    """
    unanswered_since: float | None = None

    def note_answer(_done_bytes: int) -> None:
        nonlocal unanswered_since
        unanswered_since = None

    lease.tell(step="verifying", done_bytes=0, expected_bytes=expected_bytes)
    while True:
        try:
            return verify(context, links, level, lease, on_progress=note_answer, source=source, new=True)
        except Transient as error:
            now = time.monotonic()
            unanswered_since = now if unanswered_since is None else unanswered_since
            patience_s = context.settings.verify_wait_s
            if now - unanswered_since >= patience_s:
                raise Permanent(f"the backup could not be read back within {patience_s:g} s: {error}") from error
            _log.warning("backup.not_readable_yet", reason=in_full(error))
            lease.stop.wait(min(_ASK_AGAIN_S, patience_s))
            lease.check()


def verify(
    context: TaskContext,
    links: list[ChainLink],
    level: VerificationLevel,
    lease: Lease,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    source: Administer | None = None,
    new: bool = False,
) -> VerificationResult:
    """Verify the last backup of a chain once, and write its verification record.

    ``on_progress``: see ``verify_objects``. ``source``: see ``Engine.check_tables``; when it is None, the running
    instance that the backup was taken from is asked, if it is on this host. ``new``: the backup has just been made.

    Raises:
        ObjectMissing, Damaged: bytes are missing or differ from what was recorded; the message names the object.
        Transient, Permanent: a store does not answer, or the verification is impossible on this host.
        Superseded: the attempt was abandoned.
    """
    begun_s = time.monotonic()
    link = links[-1]
    checksums = None
    facts = object_facts(context.stores.of(link.account), link.backup_id)
    if level is VerificationLevel.OBJECTS:

        def note(done_bytes: int) -> None:
            lease.tell(done_bytes=done_bytes)
            on_progress(done_bytes)

        manifest = context.low_priority(
            verify_objects,
            context.stores.of(link.account),
            link.backup_id,
            link.manifest_sha256,
            threads=context.settings.compression_threads,
            on_progress=note,
            stop=lease.stop,
        )
        own_bytes = manifest.data.size_bytes
        verify_chain(context, links[:-1], lease, on_progress=lambda count: note(own_bytes + count))
    else:
        checksums = _checked_in_scratch_server(context, links, lease, source, new=new)
    result = VerificationResult(
        status=VerificationStatus.PASSED,
        level=level,
        at=_now(),
        seconds=round(time.monotonic() - begun_s, 3),
        reason=_unsound_tables(checksums),
    )
    lease.confirm()
    _keep(context, link, result, checksums, facts)
    _log.info("backup.verified", backup=link.backup_id, verification_level=level.value, seconds=result.seconds)
    return result


def verify_chain(
    context: TaskContext,
    links: Sequence[ChainLink],
    lease: Lease,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Read back the objects of the backups that another one depends on, or will depend on; the full backup first.

    Raises as ``verify_ancestors`` does.
    """
    if links:
        context.low_priority(
            verify_ancestors,
            context.stores.of(links[0].account),
            [Ancestor(backup_id=link.backup_id, manifest_sha256=link.manifest_sha256) for link in links],
            now_us=_now_us,
            threads=context.settings.compression_threads,
            on_progress=on_progress,
            stop=lease.stop,
        )


def _unverified(context: TaskContext, link: ChainLink, error: SnapholdError, seconds: float) -> VerificationResult:
    """The result of a verification that raised ``error``. If it is "failed", the verification record is written."""
    result = VerificationResult(
        status=verdict_on(error),
        level=VerificationLevel.RESTORE,
        at=_now(),
        seconds=round(seconds, 3),
        reason=reason_of(error),
    )
    _log.warning("backup.not_verified", backup=link.backup_id, status=result.status.value, reason=in_full(error))
    if result.status is VerificationStatus.FAILED:
        _keep(context, link, result, None, {})
    return result


def _remove_stray_record(context: TaskContext, link: ChainLink) -> None:
    """Remove a verification record that was written after its backup had been deleted."""
    store = context.stores.of(link.account)
    with suppress(SnapholdError):
        try:
            store.size(manifest_name(link.backup_id))
        except ObjectMissing:
            store.delete(verification_record_name(link.backup_id))


def _keep(
    context: TaskContext,
    link: ChainLink,
    result: VerificationResult,
    checksums: Checksums | None,
    facts: dict[str, ObjectFacts],
) -> None:
    """Write the verification record. If the store is read-only, only the catalog gets the result."""
    verification_record = VerificationRecord(
        id=link.backup_id,
        manifest_sha256=link.manifest_sha256,
        by=__version__,
        checksums=checksums,
        objects=facts,
        **result.model_dump(),
    )
    try:
        write_verification_record(context.stores.of(link.account), verification_record)
    except (Transient, Permanent) as error:
        _log.warning("verification_record.not_written", backup=link.backup_id, reason=in_full(error))


def _checked_in_scratch_server(
    context: TaskContext, links: list[ChainLink], lease: Lease, source: Administer | None, *, new: bool
) -> Checksums:
    """Restore a chain into a scratch server and check every table; return the checksums of the tables of clients.

    ``source``: see ``Engine.check_tables``. ``new``: the backup has just been made.

    Raises:
        Damaged: bytes differ from what was recorded, or a table is unsound that was sound in the source or in an
            earlier verification.
        Permanent: a table of an older backup is unsound, and nothing shows whether it was so in the source. The bytes
            are those that were written, so this is no proof of damage.
    """
    chain = Chain.opened(context.stores, links)
    of, link = chain.newest.datastore, links[-1]
    engine = context.engines.of(of.type, of.version)
    earlier = read_verification_record(chain.store, link.backup_id, link.manifest_sha256)
    with _naming_ancestors(chain):
        for manifest in chain.manifests:
            verify_index(chain.store, manifest.index)
    spec = InstanceSpec(
        id=str(uuid.uuid4()),
        account=link.account,
        name="proof",
        datastore=of.type,
        version=of.version,
        ram_mb=_RAM_MB,
        volume_gb=chain.newest.volume_gb,
    )
    try:
        staging = context.servers.staging(spec, 1, kind="proof")
        chain.refuse_small_disk(staging.directory)
        reached(Step.VERIFY_STAGED)
        lease.tell(done_bytes=0, expected_bytes=chain.stream_bytes)
        with _naming_ancestors(chain):
            context.low_priority(chain.materialize, context, staging, lease)
        reached(Step.VERIFY_EXTRACTED)
        engine.prepare(
            staging.directory,
            uid=staging.uid,
            gid=staging.gid,
            memory_bytes=staging.memory_bytes,
            stop=lease.stop,
        )
        reached(Step.VERIFY_PREPARED)
        lease.check()
        administer = context.servers.start_scratch_server(spec, 1)
        reached(Step.VERIFY_STARTED)
        with ThreadPoolExecutor(1, "check") as pool:
            if source is None:
                source = _running_source(context, chain.newest)
            known = earlier.checksums.unsound if earlier is not None and earlier.checksums is not None else ()
            checking = pool.submit(engine.check_tables, administer, lease.check, known=known, source=source)
            while not wait([checking], _STOP_POLL_S).done:
                if lease.stop.is_set():  # only the end of its server ends a statement on a large table
                    context.servers.discard_attempt(spec.id, 1)
            lease.check()
            try:
                found = checking.result()
            except Damaged as error:
                if new or (earlier is not None and earlier.checksums is not None):
                    raise
                raise Permanent(
                    f"{error}. All objects are as they were written; whether the table was so in the source when the "
                    "backup was taken is not known"
                ) from error
        reached(Step.VERIFY_CHECKED)
    finally:
        context.servers.discard_attempt(spec.id, 1)
    return engine.compare_checksums(link.backup_id, None if earlier is None else earlier.checksums, found)


def _running_source(context: TaskContext, manifest: Manifest) -> Administer | None:
    """Runs statements in the instance that a backup was taken from; None if no server of it runs on this host."""
    instance_id, servers = manifest.instance_id, context.servers
    if instance_id not in servers.ids() or servers.account(instance_id) != manifest.account:
        return None
    return servers.administer(instance_id) if servers.running(instance_id) else None


@contextmanager
def _naming_ancestors(chain: Chain) -> Iterator[None]:
    """Name the damaged backup in the error when it is an ancestor of the newest one."""
    try:
        yield
    except (Damaged, ObjectMissing) as error:
        for manifest in chain.manifests[:-1]:
            if object_prefix(manifest.id) in str(error):
                raise damage_below(manifest.name, manifest.id, error) from error
        raise


def _unsound_tables(checksums: Checksums | None) -> str | None:
    """The reason shown with a result "passed": the tables that are not sound, as they were in the source."""
    if checksums is None or not checksums.unsound:
        return None
    named = [f"{name} ({text})" for name, text in sorted(checksums.unsound.items())]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"Not sound, as in the source: {'; '.join(named[:_NAMED])}{more}."


def _now_us() -> int:
    return time.time_ns() // 1000


def _now() -> str:
    return rfc3339(_now_us())
