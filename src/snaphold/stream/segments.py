"""Moves streams to and from the store: compresses and splits them on the way in, and verifies them on the way out.

    read → 1 MiB blocks → compress (``threads`` at once) → in order → segments → put (at most ``IN_FLIGHT`` at once)

A segment is stored while it is being filled, and stays in memory until it is stored, because the store may have to
start over. The blocks and segments in progress bound the memory, whatever the length of the stream. The first failure
ends all work. When a function of this module returns or raises, its threads have ended.
"""

import functools
import hashlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, Self

from snaphold.errors import Damaged, SnapholdError, Superseded
from snaphold.formats.index import Index
from snaphold.formats.manifest import CodecName, Manifest, Segment
from snaphold.formats.xbstream import Chunk, File
from snaphold.objects import MAX_SEGMENT_SIZE, SEGMENT_SIZE
from snaphold.store.base import ObjectStore
from snaphold.store.direct import WRITE_SIZE, block_memory
from snaphold.stream.compress import BLOCK_SIZE, Member, compress_block, keep_block_memory
from snaphold.stream.priority import Throttle

IN_FLIGHT: Final = 3  # segments in memory, including the one that is being filled
_AHEAD: Final = 12  # blocks read ahead of the compression: a tool alternates between reading and writing 10 MiB
_SPARE: Final = 24  # blocks; what a tool has in its buffers when it blocks commits
_REST_S: Final = 0.03  # of processor time for a tool that blocks commits; about what it needs
_PROGRESS_S: Final = 0.1  # minimum time between two calls of on_progress
_STOP_POLL_S: Final = 0.05


class StreamWatch(Protocol):
    """Observes a stream: :class:`snaphold.formats.xbstream.Watch`."""

    files: list[File]
    chunks: list[Chunk]

    @property
    def writers_wait(self) -> bool:
        """Whether some clients of the source are blocked until the rest of the stream is read."""

    @property
    def commits_wait(self) -> bool:
        """Whether all clients that commit are blocked."""

    def feed(self, data: memoryview) -> None:
        """Observe the next bytes. Raises ``Damaged``."""

    def finish(self) -> None:
        """Observe the end. Raises ``Damaged`` when the stream is incomplete."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Describes the stored segments, for ``publish`` and for the manifest."""

    segments: list[Segment]
    segment_size: int  # bytes, of all segments but the last
    size_bytes: int  # of all segments
    stream_bytes: int  # uncompressed
    index: bytes  # the index object (:mod:`snaphold.formats.index`)


def write_backup(
    read: Callable[[memoryview], int],
    store: ObjectStore,
    prefix: str,
    *,
    codec: CodecName = "gzip",
    level: int,
    threads: int = 0,
    max_bytes_per_s: float = 0,
    watch: StreamWatch,
    kill: Callable[[], None],
    on_progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
    segment_size: int = SEGMENT_SIZE,
) -> Written:
    """Compress a stream and store it under the prefix as segments. The caller publishes them.

    ``read`` fills the start of a buffer and returns the number of bytes, 0 at the end of a good stream; only the
    calling thread calls it. ``kill`` makes a waiting ``read`` return or raise soon; another thread calls it, at most
    once, after a failure elsewhere or when ``stop`` is set. ``threads``: 0 means one for each core.
    ``max_bytes_per_s``: limits how fast the stream is read; 0: no limit. There is no limit while ``watch`` reports
    that clients of the source are blocked. While all of them are, up to _SPARE blocks more are read ahead of the
    compression, which pauses for a moment. ``on_progress`` gets the number of bytes read so far, now and then and at
    the end, in the calling thread.

    Raises:
        Superseded: ``stop`` was set.
        Damaged: ``watch`` found the stream incomplete.
        SnapholdError: the first error of ``read`` or of the store. Segments may remain under the prefix.
    """
    keep_block_memory()
    put = functools.partial(store.put_segment, prefix, segment_size=segment_size)
    threads = threads or os.cpu_count() or 1
    with _Intake(
        put, codec=codec, level=level, threads=threads, segment_size=segment_size, kill=kill, stop=stop
    ) as intake:
        throttle, stream_bytes, told_s = Throttle(max_bytes_per_s), 0, time.monotonic()
        filled = BLOCK_SIZE
        while filled == BLOCK_SIZE:
            block, filled = intake.free_block(at_once=watch.commits_wait), 0
            while filled < BLOCK_SIZE and (count := _read(block[filled:], read, intake.check)):
                waited = watch.commits_wait
                watch.feed(block[filled : filled + count])
                filled += count
                if watch.commits_wait and not waited:
                    intake.rest()
                if time.monotonic() - told_s >= _PROGRESS_S:
                    on_progress(stream_bytes + filled)
                    told_s = time.monotonic()
            if filled:
                intake.submit(block, filled)
            stream_bytes += filled
            intake.pause(0 if watch.writers_wait else throttle.pause_s(filled))
        watch.finish()
        intake.finish()
        on_progress(stream_bytes)
    index = Index.of(
        block_size=BLOCK_SIZE,
        segment_size=segment_size,
        stream_bytes=stream_bytes,
        files=watch.files,
        chunks=watch.chunks,
        members=intake.members,
    )
    return Written(
        segments=intake.segments,
        segment_size=segment_size,
        size_bytes=sum(segment.size_bytes for segment in intake.segments),
        stream_bytes=stream_bytes,
        index=index.encode(),
    )


def read_backups(
    wanted: Sequence[tuple[Manifest, int]],
    store: ObjectStore,
    *,
    threads: int = 0,
    stop: threading.Event | None = None,
) -> Generator[memoryview, None, None]:
    """Yield the segments of several backups, one after the other, each after its SHA-256 was verified.

    A segment is valid until the next one is requested. ``wanted``: the number of bytes to read from the start of each
    data object, rounded up to whole segments. At most IN_FLIGHT segments are in memory, including the one that was
    yielded last. Close the iterator to stop early. ``threads``: 0 means as many as that allows.

    Raises:
        ObjectMissing: a data object does not exist.
        Damaged: a data object has another length than its manifest states, or a segment differs; the message names
            both.
        Superseded: ``stop`` was set.
    """
    for manifest, _ in wanted:
        check_length(manifest, store)
    ahead = IN_FLIGHT - 1
    pool = ThreadPoolExecutor(min(threads, ahead) if threads else ahead, thread_name_prefix="segment")
    buffers: queue.LifoQueue[memoryview] = queue.LifoQueue()
    for _ in range(IN_FLIGHT):
        buffers.put(block_memory(max(segment.size_bytes for manifest, _ in wanted for segment in manifest.segments)))
    fetching: deque[Future[tuple[memoryview, int]]] = deque()
    ended = threading.Event()

    def check() -> None:
        if ended.is_set() or (stop is not None and stop.is_set()):
            raise Superseded("reading the backup was stopped")

    def fetch(manifest: Manifest, number: int) -> tuple[memoryview, int]:
        buffer = buffers.get()
        return buffer, _fill_with(buffer, segment_pieces(manifest, store, number, check))

    def hand_on_oldest() -> Iterator[memoryview]:
        buffer, size = fetching.popleft().result()
        check()
        yield buffer[:size]
        buffers.put(buffer)

    try:
        for manifest, number in _segments_of(wanted):
            if len(fetching) == ahead:
                yield from hand_on_oldest()
            fetching.append(pool.submit(fetch, manifest, number))
        while fetching:
            yield from hand_on_oldest()
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def _fill_with(buffer: memoryview, pieces: Iterable[bytes]) -> int:
    """Copy the pieces into a buffer, one after the other; return their total length."""
    size = 0
    for piece in pieces:
        buffer[size : size + len(piece)] = piece
        size += len(piece)
    return size


def _segments_of(wanted: Sequence[tuple[Manifest, int]]) -> Iterator[tuple[Manifest, int]]:
    """Yield the segments that contain this many bytes of each backup, in order."""
    for manifest, size_bytes in wanted:
        for number in range(-(-size_bytes // manifest.segment_size_bytes)):
            yield manifest, number


def check_length(manifest: Manifest, store: ObjectStore) -> None:
    """Compare the data object's length with that of its segments. Raises ``ObjectMissing``, ``Damaged``."""
    name, sizes = manifest.data.name, [segment.size_bytes for segment in manifest.segments]
    full = manifest.segment_size_bytes
    whole = all(size == full for size in sizes[:-1]) and all(0 < size <= full for size in sizes[-1:])
    if sum(sizes) != manifest.data.size_bytes or not whole or not 0 < full <= MAX_SEGMENT_SIZE:
        raise Damaged(f"the manifest's segments of {name} do not add up")
    if (size := store.size(name)) != manifest.data.size_bytes:
        raise Damaged(f"{name} has {size} bytes instead of {manifest.data.size_bytes}")


def segment_pieces(
    manifest: Manifest, store: ObjectStore, number: int, check: Callable[[], None]
) -> Generator[bytes, None, None]:
    """Yield the pieces of one segment. They are verified only when the iterator has ended.

    ``check``: called before each piece.

    Raises:
        Damaged: at the end, if the segment differs from what was written.
    """
    name, expected = manifest.data.name, manifest.segments[number]
    sha256, size = hashlib.sha256(), 0
    for piece in store.get(name, number * manifest.segment_size_bytes, expected.size_bytes):
        check()
        sha256.update(piece)
        size += len(piece)
        if size > expected.size_bytes:
            break
        yield piece
    if size != expected.size_bytes:
        raise Damaged(f"segment {number} of {name} has {size} bytes instead of {expected.size_bytes}")
    if sha256.hexdigest() != expected.sha256:
        raise Damaged(f"segment {number} of {name} differs from what was written")


def discard(store: ObjectStore, prefix: str) -> None:
    """Delete all objects under an attempt's prefix."""
    for info in list(store.list(prefix)):
        store.delete(info.name)


def _read(rest: memoryview, read: Callable[[memoryview], int], check: Callable[[], None]) -> int:
    """Read the next bytes of the stream; return their number, 0 at its end. Raises the first failure of all."""
    try:
        count = read(rest)
    except SnapholdError:
        check()  # if kill() made the read fail, there was an earlier failure
        raise
    check()
    return count


class _Intake:
    """Compresses blocks and stores segments. One thread submits blocks. Leaving the context ends all other threads."""

    def __init__(
        self,
        put: Callable[[int, Iterable[memoryview]], None],
        *,
        codec: CodecName,
        level: int,
        threads: int,
        segment_size: int,
        kill: Callable[[], None],
        stop: threading.Event | None,
    ) -> None:
        self.segments: list[Segment] = []
        self.members: list[int] = []  # the length of each member
        self._put_segment, self._codec, self._level, self._kill = put, codec, level, kill
        self._free: queue.LifoQueue[memoryview | None] = (
            queue.LifoQueue()
        )  # last in, first out: the newest is still in the processor's caches
        self._blocks, self._most_blocks = 0, 2 * threads + _AHEAD
        self._compressed: queue.SimpleQueue[tuple[Future[Member], memoryview] | None] = queue.SimpleQueue()
        self._filling: _Segment | None = None
        self._rested_s = 0.0  # end of the pause, unless it is ended before
        self._awake = threading.Event()
        self._buffers: queue.LifoQueue[memoryview | None] = (
            queue.LifoQueue()
        )  # last in, first out: the newest is in memory already
        for _ in range(IN_FLIGHT):
            self._buffers.put(block_memory(segment_size))
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._compressing = ThreadPoolExecutor(threads, thread_name_prefix="compress")
        self._putting = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="put")
        self._puts: list[Future[None]] = []
        self._threads = [threading.Thread(target=self._cut, name="cut")]
        if stop is not None:
            self._threads.append(threading.Thread(target=self._look_for_stop, args=(stop,), name="stop"))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._fail(error)
        self._ended.set()
        self._compressed.put(None)
        self._buffers.put(None)
        self._compressing.shutdown(cancel_futures=True)
        for thread in self._threads:
            thread.join()
        self._putting.shutdown(cancel_futures=True)

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure

    def pause(self, seconds: float) -> None:
        """Wait, but not after a failure. Raises like ``check``."""
        if seconds:
            self._ended.wait(min(seconds, threading.TIMEOUT_MAX))
        self.check()

    def free_block(self, *, at_once: bool) -> memoryview:
        """Return a buffer of BLOCK_SIZE bytes; wait for a free one, with ``at_once`` only after _SPARE more."""
        if self._free.empty():
            if self._blocks < self._most_blocks + (_SPARE if at_once else 0):
                self._blocks += 1
                return memoryview(bytearray(BLOCK_SIZE))
            self._awake.set()  # nothing more can be read meanwhile
        block = self._free.get()
        self.check()
        assert block is not None  # noqa: S101 -- None is put after a failure only
        return block

    def rest(self) -> None:
        """Pause the compression for a moment, because a tool that blocks clients needs the processor."""
        self._rested_s = time.monotonic() + _REST_S
        self._awake.clear()

    def submit(self, block: memoryview, filled: int) -> None:
        """Compress the start of a block. The block becomes free after its member was copied to a segment."""
        self._compressed.put((self._compressing.submit(self._compress, block[:filled]), block))

    def _compress(self, block: memoryview) -> Member:
        if (left_s := self._rested_s - time.monotonic()) > 0:
            self._awake.wait(left_s)
        return compress_block(block, self._level, self._codec)

    def finish(self) -> None:
        """Wait until all submitted blocks are in the store."""
        self._awake.set()
        self._compressed.put(None)
        self._threads[0].join()
        for put in self._puts:
            put.exception()
        self.check()

    def _cut(self) -> None:
        """Split the members, in order, into segments, which are stored while being filled. Runs in a thread."""
        try:
            while (item := self._compressed.get()) is not None:
                member, block = item[0].result(), item[1]
                self.members.append(sum(len(part) for part in member))
                for part in member:
                    if not self._append(memoryview(part)):
                        return
                self._free.put(block)
            if self._filling is not None and not self._ended.is_set():
                self._end_segment(self._filling)
        except BaseException as error:  # noqa: BLE001 -- check() raises it in the calling thread
            self._fail(error)
        finally:
            if self._filling is not None:
                self._filling.end(whole=False)

    def _append(self, rest: memoryview) -> bool:
        """Append bytes to the current segment, and to new ones. Returns False if all work has ended meanwhile."""
        while rest:
            if self._filling is None:
                buffer = self._buffers.get()  # a slow store blocks all earlier steps here
                if buffer is None or self._ended.is_set():
                    return False
                self._filling = _Segment(buffer)
                self._begin_put(self._filling)
            rest = self._filling.add(rest)
            if self._filling.full:
                self._end_segment(self._filling)
        return True

    def _begin_put(self, segment: "_Segment") -> None:
        """Start to store a segment, while it is being filled."""
        number = len(self._puts)

        def put() -> None:
            try:
                if not self._ended.is_set():
                    self._put_segment(number, segment)
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                self._buffers.put(segment.buffer)

        self._puts.append(self._putting.submit(put))

    def _end_segment(self, segment: "_Segment") -> None:
        segment.end(whole=True)
        self.segments.append(Segment(size_bytes=segment.size, sha256=segment.sha256.hexdigest()))
        self._filling = None

    def _look_for_stop(self, stop: threading.Event) -> None:
        while not self._ended.wait(_STOP_POLL_S):
            if stop.is_set():
                self._fail(Superseded("the backup was stopped"))

    def _fail(self, error: BaseException) -> None:
        """Record the first failure, and wake all waiting threads."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = error
        self._ended.set()
        self._awake.set()
        self._free.put(None)
        self._buffers.put(None)
        with suppress(SnapholdError):
            self._kill()


class _Segment:
    """A segment that one thread fills, while others iterate over its bytes from the start.

    They get pieces of WRITE_SIZE bytes, however the segment is filled, because such pieces are written without a copy.
    """

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.size = 0  # bytes that are available to readers, and hashed
        self.sha256 = hashlib.sha256()
        self._filled = 0
        self._whole: bool | None = None  # None: still being filled
        self._changed = threading.Condition()

    @property
    def full(self) -> bool:
        """Whether the segment is full."""
        return self._filled == len(self.buffer)

    def add(self, data: memoryview) -> memoryview:
        """Append the bytes that fit; return the rest."""
        part = data[: len(self.buffer) - self._filled]
        self.buffer[self._filled : self._filled + len(part)] = part
        self._filled += len(part)
        self._hand_on(self._filled // WRITE_SIZE * WRITE_SIZE)
        return data[len(part) :]

    def end(self, *, whole: bool) -> None:
        """End the segment. ``whole``: all of it was filled; otherwise readers get an error."""
        if whole:
            self._hand_on(self._filled)
        with self._changed:
            self._whole = whole
            self._changed.notify_all()

    def _hand_on(self, upto: int) -> None:
        if upto > self.size:
            self.sha256.update(self.buffer[self.size : upto])
            with self._changed:
                self.size = upto
                self._changed.notify_all()

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the pieces, and wait for more until the end. Raises ``Superseded`` if the end will never come."""
        position = 0
        while True:
            with self._changed:
                while position == self.size and self._whole is None:
                    self._changed.wait()
                if self._whole is False:
                    raise Superseded("the backup was abandoned")
                if position == self.size:
                    return
                piece = self.buffer[position : min(position + WRITE_SIZE, self.size)]
            yield piece
            position += len(piece)
