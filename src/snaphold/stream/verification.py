"""Verifies a backup: reads its objects back and compares them with what was recorded."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import TypeVar

from pydantic import ValidationError

from snaphold.errors import Damaged, ObjectMissing, SnapholdError, Superseded
from snaphold.formats.manifest import IndexFacts, Manifest, load, sha256_of
from snaphold.formats.verification_record import ObjectFacts, VerificationRecord
from snaphold.model import VerificationStatus
from snaphold.objects import manifest_name, object_prefix, verification_record_name
from snaphold.store.base import ObjectStore
from snaphold.stream.priority import Priority
from snaphold.stream.segments import check_length, segment_pieces

Result = TypeVar("Result")


def read_verification_record(store: ObjectStore, backup_id: str, manifest_sha256: str) -> VerificationRecord | None:
    """The record of the newest verification of this very backup; None if there is none that can be read.

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
    """What the store says of the objects of a backup, without reading them; the verification record is none.

    Raises:
        Transient, Permanent: the store does not answer, or refuses.
    """
    return {
        found.name: ObjectFacts(size_bytes=found.size_bytes, modified_s=found.modified_s)
        for found in store.list(object_prefix(backup_id))
        if found.name != verification_record_name(backup_id)
    }


def still_proven(store: ObjectStore, backup_id: str, manifest_sha256: str) -> bool:
    """Whether a backup has passed a verification, and its objects have not changed since, as far as the store says.

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


def damage_below(name: str, backup_id: str, error: SnapholdError) -> Damaged:
    """The fault of a backup for which this was raised of one that it depends on: its ``name`` and id."""
    return Damaged(f'the backup "{name}" ({backup_id}), which it depends on, is damaged: {error}')


def verdict_on(error: SnapholdError) -> VerificationStatus:
    """The status that an error in a verification means: only bytes that differ or are missing fail it."""
    return VerificationStatus.FAILED if isinstance(error, Damaged | ObjectMissing) else VerificationStatus.UNKNOWN


def write_verification_record(store: ObjectStore, verification_record: VerificationRecord) -> None:
    """Keep the verification record in the place of an earlier one, whose checksums go on to hold where it brings none.

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
    """Read the objects of one backup back, not those of the ones that it depends on; returns its manifest.

    Memory is a piece of the store a thread (``threads``: 0 means one a core), whatever the size. ``priority``: of the
    threads that read; None: the caller's own. ``on_progress`` gets the bytes of segments that were good so far, in the
    calling thread.

    Raises:
        ObjectMissing, Damaged: an object is gone, or is not what was recorded; the message names it.
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
    """The numbers of all segments that are not what was recorded, in order. The arguments of ``verify_objects``.

    Raises:
        ObjectMissing: the data object is gone.
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
    """What ``work`` returns for each segment's number, as they end; it also gets what it must call now and then."""
    ended = threading.Event()

    def check() -> None:
        if ended.is_set() or (stop is not None and stop.is_set()):
            raise Superseded(f"reading {manifest.data.name} back was stopped")

    show = None if priority is None else priority.show
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="prove", initializer=show)
    try:
        for segment in as_completed([pool.submit(work, number, check) for number in range(len(manifest.segments))]):
            check()  # those that are read already need not ask any more
            yield segment.result()
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def verify_index(store: ObjectStore, index: IndexFacts) -> None:
    """Read an index back. Raises as ``verify_objects`` does."""

    def read() -> None:
        if sha256_of(b"".join(store.get(index.name))) != index.sha256:
            raise Damaged(f"the index {index.name} differs from what was written")

    _confirmed(read)


def _confirmed(read: Callable[[], Result]) -> Result:
    """Bytes that differ are read once more: one bad read must not condemn a backup."""
    with suppress(Damaged):
        return read()
    return read()
