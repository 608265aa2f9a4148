"""Verifies a backup: reads its objects back and compares them with what was recorded."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog
from pydantic import ValidationError

from snaphold import __version__
from snaphold.errors import Damaged, ObjectMissing, SnapholdError, Superseded, in_full
from snaphold.formats.manifest import IndexFacts, Manifest, load, sha256_of
from snaphold.formats.verification_record import ObjectFacts, VerificationRecord
from snaphold.model import VerificationLevel, VerificationStatus, rfc3339
from snaphold.objects import manifest_name, object_prefix, verification_record_name
from snaphold.store.base import ObjectStore
from snaphold.stream.priority import Priority
from snaphold.stream.segments import check_length, segment_pieces

Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


def read_verification_record(store: ObjectStore, backup_id: str, manifest_sha256: str) -> VerificationRecord | None:
    """Return the record of the newest verification of this backup; None if there is none, or none that is readable.

    Raises:
        Transient, Permanent: the store does not answer, or refuses.
    """
    with suppress(ObjectMissing, ValidationError):
        verification_record = VerificationRecord.model_validate_json(
            b"".join(store.get(verification_record_name(backup_id)))
        )
        if (verification_record.id, verification_record.manifest_sha256) == (backup_id, manifest_sha256):
            return verification_record
    return None


def object_facts(store: ObjectStore, backup_id: str) -> dict[str, ObjectFacts]:
    """Return the facts that the store lists of a backup's objects, except the verification record.

    Raises:
        Transient, Permanent: the store does not answer, or refuses.
    """
    return {
        found.name: ObjectFacts(size_bytes=found.size_bytes, modified_s=found.modified_s)
        for found in store.list(object_prefix(backup_id))
        if found.name != verification_record_name(backup_id)
    }


def still_proven(store: ObjectStore, backup_id: str, manifest_sha256: str) -> bool:
    """Whether the newest verification passed, and the store lists the objects as unchanged since.

    Raises:
        Transient, Permanent: the store does not answer, or refuses.
    """
    verification_record = read_verification_record(store, backup_id, manifest_sha256)
    passed = (
        verification_record is not None
        and verification_record.status is VerificationStatus.PASSED
        and verification_record.objects
    )
    return (
        bool(passed)
        and verification_record is not None
        and verification_record.objects == object_facts(store, backup_id)
    )


def damage_below(name: str | None, backup_id: str, error: SnapholdError) -> Damaged:
    """The error of a backup whose ancestor, of this name (None: unknown) and id, raised ``error``."""
    known_as = f"{backup_id}" if name is None else f'"{name}" ({backup_id})'
    return Damaged(f"the backup {known_as}, which it depends on, is damaged: {error}")


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A backup that another one depends on. ``name`` is None where only the manifest has it."""

    backup_id: str
    manifest_sha256: str
    name: str | None = None


def verify_ancestors(
    store: ObjectStore,
    ancestors: Sequence[Ancestor],
    *,
    now_us: Callable[[], int],
    threads: int = 0,
    priority: Priority | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> None:
    """Read back the objects of every backup that another one depends on.

    ``ancestors``: the full backup first, the parent last. They are read in this order, and each that is good gets a
    verification record before the next one is read: a record that this function writes therefore means that
    everything below the backup was good as well. An ancestor that has such a record, and whose objects have not
    changed since, is not read again. The other arguments are those of ``verify_objects``.

    Raises:
        Damaged: an ancestor is damaged, or an object of it is missing; the message names both.
        Transient, Permanent, Superseded: as ``verify_objects``.
    """
    done_bytes = 0
    for ancestor in ancestors:
        backup_id, sha256 = ancestor.backup_id, ancestor.manifest_sha256
        if still_proven(store, backup_id, sha256):
            continue
        begun_s, before = time.monotonic(), done_bytes

        def add(count: int, before: int = before) -> None:
            on_progress(before + count)

        try:
            facts = object_facts(store, backup_id)
            manifest = verify_objects(
                store, backup_id, sha256, threads=threads, priority=priority, on_progress=add, stop=stop
            )
        except (Damaged, ObjectMissing) as error:
            raise damage_below(ancestor.name or _name_of(store, ancestor), backup_id, error) from error
        done_bytes += manifest.data.size_bytes
        seconds = round(time.monotonic() - begun_s, 3)
        _note_passed(store, ancestor, facts, at=rfc3339(now_us()), seconds=seconds)


def _name_of(store: ObjectStore, ancestor: Ancestor) -> str | None:
    """The name that an ancestor's manifest has, if it can be read."""
    with suppress(SnapholdError):
        name = manifest_name(ancestor.backup_id)
        return load(b"".join(store.get(name)), name=name, sha256=ancestor.manifest_sha256).name
    return None


def _note_passed(
    store: ObjectStore, ancestor: Ancestor, facts: dict[str, ObjectFacts], *, at: str, seconds: float
) -> None:
    """Write the ancestor's verification record, so that the next increment need not read it again.

    A record that says "failed" stays: only a verification of that backup itself replaces it.
    """
    try:
        earlier = read_verification_record(store, ancestor.backup_id, ancestor.manifest_sha256)
        if earlier is None:
            passed = VerificationRecord(
                id=ancestor.backup_id,
                manifest_sha256=ancestor.manifest_sha256,
                status=VerificationStatus.PASSED,
                level=VerificationLevel.OBJECTS,
                at=at,
                seconds=seconds,
                by=__version__,
                objects=facts,
            )
            write_verification_record(store, passed)
        elif earlier.status is VerificationStatus.PASSED:
            write_verification_record(store, earlier.model_copy(update={"objects": facts}))
    except SnapholdError as error:
        _log.info("verification_record.not_written", backup=ancestor.backup_id, reason=in_full(error))


def verdict_on(error: SnapholdError) -> VerificationStatus:
    """Return the status for an error in a verification: it fails only if bytes differ or are missing."""
    return VerificationStatus.FAILED if isinstance(error, Damaged | ObjectMissing) else VerificationStatus.UNKNOWN


def write_verification_record(store: ObjectStore, verification_record: VerificationRecord) -> None:
    """Write the verification record, replacing an earlier one. If it has no checksums, it keeps the earlier ones.

    Raises:
        Transient, Permanent: the store does not answer, or refuses.
    """
    if verification_record.checksums is None:
        earlier = read_verification_record(store, verification_record.id, verification_record.manifest_sha256)
        if earlier is not None:
            verification_record = verification_record.model_copy(update={"checksums": earlier.checksums})
    store.replace(verification_record_name(verification_record.id), verification_record.dump())


def verify_objects(
    store: ObjectStore,
    backup_id: str,
    manifest_sha256: str,
    *,
    threads: int = 0,
    priority: Priority | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Manifest:
    """Read back the objects of one backup, without those of its ancestors; return its manifest.

    Each thread holds one piece in memory, whatever the size of the backup. ``threads``: 0 means one for each core.
    ``priority``: of the threads; None: that of the caller. ``on_progress`` gets the total length of the segments
    verified so far, in the calling thread.

    Raises:
        ObjectMissing, Damaged: an object is missing, or differs from what was recorded; the message names it.
        Transient, Permanent: the store does not answer, or refuses.
        Superseded: ``stop`` was set.
    """
    name = manifest_name(backup_id)
    manifest = _confirmed(lambda: load(b"".join(store.get(name)), name=name, sha256=manifest_sha256))
    verify_index(store, manifest.index)
    check_length(manifest, store)
    done_bytes = 0

    def verify(number: int, check: Callable[[], None]) -> int:
        def read() -> int:
            check()
            return sum(len(piece) for piece in segment_pieces(manifest, store, number, check))

        return _confirmed(read)

    for size_bytes in _each_segment(manifest, verify, threads=threads, priority=priority, stop=stop):
        on_progress(done_bytes := done_bytes + size_bytes)
    return manifest


def damaged_segments(
    store: ObjectStore,
    manifest: Manifest,
    *,
    threads: int = 0,
    priority: Priority | None = None,
    stop: threading.Event | None = None,
) -> list[int]:
    """Return the numbers of all damaged segments, in order. The arguments are those of ``verify_objects``.

    Raises:
        ObjectMissing: the data object does not exist.
        Transient, Permanent: the store does not answer, or refuses.
        Superseded: ``stop`` was set.
    """

    def damaged(number: int, check: Callable[[], None]) -> int | None:
        def read() -> None:
            for _ in segment_pieces(manifest, store, number, check):
                pass

        try:
            _confirmed(read)
        except Damaged:
            return number
        return None

    found = _each_segment(manifest, damaged, threads=threads, priority=priority, stop=stop)
    return sorted(number for number in found if number is not None)


def _each_segment(
    manifest: Manifest, work: Callable[[int, Callable[[], None]], Result], *,
    threads: int, priority: Priority | None, stop: threading.Event | None,
) -> Iterator[Result]:  # fmt: skip
    """Yield the results of ``work`` as they arrive. It gets a segment's number and a function to call now and then."""
    ended = threading.Event()

    def check() -> None:
        if ended.is_set() or (stop is not None and stop.is_set()):
            raise Superseded(f"reading {manifest.data.name} back was stopped")

    show = None if priority is None else priority.show
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="prove", initializer=show)
    try:
        for segment in as_completed([pool.submit(work, number, check) for number in range(len(manifest.segments))]):
            check()  # work that has ended does not check any more
            yield segment.result()
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def verify_index(store: ObjectStore, index: IndexFacts) -> None:
    """Read an index back. Raises the errors of ``verify_objects``."""

    def read() -> None:
        if sha256_of(b"".join(store.get(index.name))) != index.sha256:
            raise Damaged(f"the index {index.name} differs from what was written")

    _confirmed(read)


def _confirmed(read: Callable[[], Result]) -> Result:
    """Read again if the bytes differ: one bad read does not prove damage."""
    with suppress(Damaged):
        return read()
    return read()
