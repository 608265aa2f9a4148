"""Extracts the files of a backup: verifies its segments, and passes them to the extracting process."""

import fcntl
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from snaphold.errors import Damaged, Permanent, Superseded
from snaphold.formats.index import Index
from snaphold.formats.manifest import Manifest, sha256_of
from snaphold.formats.overlay import INCREMENT_PAGES, META
from snaphold.store.base import ObjectStore
from snaphold.stream.compress import BLOCK_SIZE
from snaphold.stream.extractor import DAMAGED, DISK_FULL, FAILED, Layer
from snaphold.stream.process import EXIT_WAIT_S, Running, Tool
from snaphold.stream.segments import read_backups

_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ")  # all else may be secret, or of no use in there
_PIPE_SIZE: Final = 1 << 20  # bytes; the most that Linux allows an unprivileged process
_STOP_POLL_MS: Final = 100


def extract_backup(
    manifests: Sequence[Manifest],
    store: ObjectStore,
    directory: Path,
    *,
    uid: int | None = None,
    gid: int | None = None,
    threads: int = 0,
    on_progress: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> None:
    """Write the files of a backup to an empty directory that belongs to the user ``uid``. The caller syncs them.

    ``manifests``: either one backup, whose files are written as they are in its stream; or a chain, the full backup
    first and each increment after its parent. Each increment must have been taken from its parent's start checkpoint.
    The result then is the unprepared files of one full backup (:mod:`snaphold.formats.overlay`).

    Each segment's SHA-256 is verified before its bytes are used. A process without any other rights writes the files
    (:mod:`snaphold.stream.extractor`). ``threads``: 0 means one for each core. ``on_progress`` gets the number of
    decompressed bytes of all streams so far, in the calling thread. After a failure, files remain in the directory.

    Raises:
        ObjectMissing: a data object does not exist.
        Damaged: a data object, or the stream in it, is damaged; the message says which.
        Permanent: the files cannot be written.
        Superseded: ``stop`` was set.
    """
    newest_first = list(reversed(manifests))
    layers = _layers(newest_first, store)
    with _Extractor(
        directory,
        uid=uid,
        gid=gid,
        threads=threads or os.cpu_count() or 1,
        layers=layers,
        on_progress=on_progress,
        stop=stop,
    ) as extractor:
        wanted = [(manifest, layer.size_bytes) for manifest, layer in zip(newest_first, layers, strict=True)]
        with closing(read_backups(wanted, store, threads=threads, stop=stop)) as segments:
            for _, size_bytes in wanted:
                _send(segments, size_bytes, extractor)
        names = ", ".join(manifest.data.name for manifest in newest_first)
        extractor.finish(names, sum(manifest.stream_bytes for manifest in newest_first))


def _send(segments: Iterator[memoryview], size_bytes: int, extractor: "_Extractor") -> None:
    """Send this many bytes of the next segments to the extractor, and skip the rest of the last segment."""
    while size_bytes:
        segment = next(segments)[:size_bytes]
        extractor.send(segment)
        size_bytes -= len(segment)


def _layers(newest_first: Sequence[Manifest], store: ObjectStore) -> list[Layer]:
    """Return how much of each stream is needed.

    Tables of engines other than InnoDB are stored whole, at the end of a stream; only the newest backup's are needed.

    Raises ``ObjectMissing``, ``Damaged``: the index of a backup differs from what was written.
    """
    layers = [_whole(manifest) for manifest in newest_first]
    if len(layers) > 2:
        newest = _index_of(newest_first[0], store)
        listed = {file.path.removesuffix(META) for file in newest.files if file.path.endswith(META)}
        layers[1:-1] = [_pages(manifest, _index_of(manifest, store), listed) for manifest in newest_first[1:-1]]
    return layers


def _pages(manifest: Manifest, index: Index, listed: Collection[str]) -> Layer:
    """Return the part of an older increment that contains all files that an overlay may read (``OverlayLayer``)."""
    ends = (file.end for file in index.files if file.path.endswith(INCREMENT_PAGES) or file.path in listed)
    wanted_bytes = max(ends, default=0)
    size_bytes = index.upto(wanted_bytes)
    if size_bytes > manifest.data.size_bytes:
        raise Damaged(f"{manifest.index.name} is of a longer object than {manifest.data.name}")
    return Layer(size_bytes, manifest.stream_bytes, wanted_bytes)


def _whole(manifest: Manifest) -> Layer:
    return Layer(manifest.data.size_bytes, manifest.stream_bytes, manifest.stream_bytes)


def _index_of(manifest: Manifest, store: ObjectStore) -> Index:
    data = b"".join(store.get(manifest.index.name))
    if sha256_of(data) != manifest.index.sha256:
        raise Damaged(f"{manifest.index.name} differs from what was written")
    index = Index.decode(data)
    of = (BLOCK_SIZE, manifest.segment_size_bytes, manifest.stream_bytes)
    if (index.block_size, index.segment_size, index.stream_bytes) != of:
        raise Damaged(f"{manifest.index.name} is of another object than {manifest.data.name}")
    return index


class _Extractor:
    """The extracting process. Leaving the context ends it."""

    def __init__(
        self,
        directory: Path,
        *,
        uid: int | None,
        gid: int | None,
        threads: int,
        layers: Sequence[Layer],
        on_progress: Callable[[int], None],
        stop: threading.Event | None,
    ) -> None:
        self._on_progress, self._stop = on_progress, stop
        messages = directory.with_name(
            f"{directory.name}.log"
        )  # is removed with the attempt's files, whichever process is killed
        messages.unlink(missing_ok=True)
        argv = [sys.executable, "-P", "-m", "snaphold.stream.extractor", "--directory", str(directory)]
        argv += ["--threads", str(threads), *(f"--layer={layer}" for layer in layers)]
        if uid is not None and gid is not None:
            argv += ["--uid", str(uid), "--gid", str(gid)]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        tool = Tool(argv=argv, messages=messages, env=environment)
        self._running = Running(tool, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._running.stdin is not None  # noqa: S101 -- a pipe was asked for
        assert self._running.stdout is not None  # noqa: S101 -- the same
        self._input, self._output = self._running.stdin, self._running.stdout
        with suppress(PermissionError):  # the user's pipes use too much memory already; a small pipe is only slower
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        os.set_blocking(self._input.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._input, select.POLLOUT)
        self._poll.register(self._output, select.POLLIN)
        self._line = b""  # the beginning of its next line
        self._done = 0  # the last number that it printed
        self._silent = False  # whether it has closed its output

    def send(self, piece: memoryview) -> None:
        """Send it the next bytes."""
        rest = piece
        while rest:
            events = self._wait()
            if events.get(self._input.fileno(), 0):
                try:
                    rest = rest[os.write(self._input.fileno(), rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    self._verdict()
                    raise Permanent("the extraction ended before the backup did") from None

    def finish(self, name: str, stream_bytes: int) -> None:
        """Wait until it ends. Raises ``Damaged`` when the streams have another length than they should."""
        self._poll.unregister(self._input)
        self._input.close()
        while not self._silent:
            self._wait()
        self._verdict()
        if self._done != stream_bytes:
            raise Damaged(f"{name} holds a stream of {self._done} bytes instead of {stream_bytes}")

    def _wait(self) -> dict[int, int]:
        """Wait for an event, and read the progress. Raises ``Superseded``."""
        events = dict(self._poll.poll(_STOP_POLL_MS))
        if self._stop is not None and self._stop.is_set():
            raise Superseded("the extraction was stopped")
        if events.get(self._output.fileno()):
            said = os.read(self._output.fileno(), 65536)
            if not said:
                self._silent = True
                self._poll.unregister(self._output)
            *lines, self._line = (self._line + said).split(b"\n")
            if lines:
                self._done = int(lines[-1])
                self._on_progress(self._done)
        return events

    def _verdict(self) -> None:
        """Raise an error unless the process succeeded."""
        status = self._running.wait(EXIT_WAIT_S)
        if status == 0:
            return
        *_, reason = ["the extraction failed", *self._running.tool.tail().splitlines()]
        if status == DAMAGED:
            raise Damaged(f"the backup cannot be extracted: {reason}")
        if status is None:
            raise Permanent("the extraction does not end")
        if status == DISK_FULL:
            raise Permanent("the backup cannot be extracted: the disk has no space left")
        if status == FAILED:
            raise Permanent(f"the backup cannot be extracted: {reason}")
        raise self._running.failure(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.end()
        self._running.tool.messages.unlink(missing_ok=True)
