"""Copies a data object from one store to another, and checks the hash of each segment on the way.

The bytes are transferred once, one piece at a time. The copy can be repeated any number of times: segments that an
earlier attempt stored are used after their hashes were checked.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from snaphold.errors import Damaged, ObjectMissing, Superseded
from snaphold.formats.manifest import Manifest
from snaphold.store.base import ObjectStore
from snaphold.stream.compress import keep_block_memory
from snaphold.stream.segments import check_length, discard, segment_pieces

_AT_ONCE: Final = 2  # segments


def bring_data(
    manifest: Manifest, source: ObjectStore, target: ObjectStore, name: str, prefix: str, *, stop: threading.Event,
    on_segments: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Copy the manifest's data object from ``source`` to the object ``name`` in ``target``.

    ``prefix``: of the segments in ``target``. ``on_segments``: called after all segments were stored, before the object
    is published.

    Raises:
        ObjectMissing, Damaged: the object differs from its manifest; the message names the segment.
        Superseded: ``stop`` was set.
        Transient, Permanent: a store does not answer, or refuses. Segments remain under the prefix.
    """
    keep_block_memory()
    ended, segment_size = threading.Event(), manifest.segment_size_bytes

    def check() -> None:
        if stop.is_set() or ended.is_set():
            raise Superseded(f"copying {name} was stopped")

    def put(number: int) -> None:
        check()
        if not _is_there(target, prefix, number, manifest):
            pieces = _Pieces(manifest, source, number, check)
            target.put_segment(prefix, number, pieces, segment_size=segment_size)

    if _is_published(target, name, manifest, check):
        discard(target, prefix)
        return
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy")
    try:
        for done in [pool.submit(put, number) for number in range(len(manifest.segments))]:
            done.result()
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)
    on_segments()
    count, size_bytes = len(manifest.segments), manifest.data.size_bytes
    target.publish(name, prefix, count, size_bytes=size_bytes, segment_size=segment_size)


@dataclass(frozen=True)
class _Pieces:
    """The pieces of one segment, read again for each iteration. Raises ``Damaged`` at the end if they differ."""

    manifest: Manifest
    source: ObjectStore
    number: int
    check: Callable[[], None]

    def __iter__(self) -> Iterator[bytes]:
        return segment_pieces(self.manifest, self.source, self.number, self.check)


def _is_there(target: ObjectStore, prefix: str, number: int, manifest: Manifest) -> bool:
    """Whether an earlier attempt stored this segment."""
    expected = manifest.segments[number]
    with suppress(ObjectMissing):
        segment_size = manifest.segment_size_bytes
        found = target.segment_sha256(prefix, number, expected.size_bytes, segment_size=segment_size)
        return found == expected.sha256
    return False


def _is_published(target: ObjectStore, name: str, manifest: Manifest, check: Callable[[], None]) -> bool:
    """Whether an earlier attempt published the object. An object that differs is removed."""
    as_there = manifest.model_copy(update={"data": manifest.data.model_copy(update={"name": name})})
    try:
        check_length(as_there, target)
        whole = _has_segments(target, name, manifest, check)
    except ObjectMissing:
        return False
    except Damaged:
        whole = False
    if not whole:
        target.delete(name)
    return whole


def _has_segments(target: ObjectStore, name: str, manifest: Manifest, check: Callable[[], None]) -> bool:
    for number, expected in enumerate(manifest.segments):
        check()
        if target.sha256(name, number * manifest.segment_size_bytes, expected.size_bytes) != expected.sha256:
            return False
    return True
