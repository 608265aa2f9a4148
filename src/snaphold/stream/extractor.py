"""A program that extracts a compressed stream from its standard input to the files of a data directory.

    python -m snaphold.stream.extractor --directory DIR [--uid UID --gid GID] --threads N --layer BYTES ...

It is a separate process because a stream may be hostile. After it has imported its modules and opened the directory,
it gives up root, its groups, and access to all files outside of the directory, irrevocably. It dies with its parent. It
checks names, creates new files only (mode 0600, directories 0700), never follows links, verifies the CRC of every
chunk, and refuses an incomplete stream.
``--layer`` describes the stream of one backup (:class:`Layer`). Given several times, the standard input is a chain: the
streams of its backups in a row, the newest first. A stream that decompresses to more bytes than its layer states is
refused before these are written. The directory must be empty; the caller removes what a failure leaves in it.

Standard output: the number of bytes of the stream so far, one line for each PROGRESS_STEP and one at the end. Standard
error: one line with the reason of a failure. Exit status: 0 the files were written (not synced), FAILED they could not
be written, DISK_FULL the disk is full, DAMAGED the stream is damaged or unsafe.
"""

import argparse
import errno
import os
import resource
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final

from snaphold.errors import Damaged, SnapholdError
from snaphold.formats.files import Tree, WholeFiles
from snaphold.formats.overlay import Overlay
from snaphold.formats.xbstream import Sink, XbstreamReader
from snaphold.sandbox import launcher
from snaphold.stream.compress import MemberSplitter, decompress_member, keep_block_memory

DAMAGED: Final = 3  # exit statuses; Python itself uses 1
FAILED: Final = 4
DISK_FULL: Final = 5  # there may be no space to print the reason
PROGRESS_STEP: Final = 16 << 20  # bytes of the stream
_READ_SIZE: Final = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Layer:
    """One stream of a chain."""

    size_bytes: int  # compressed, of the part that is read
    stream_bytes: int
    wanted_bytes: int  # of the stream, from its start; if equal to stream_bytes, the stream must be complete

    def __str__(self) -> str:
        return f"{self.size_bytes}:{self.stream_bytes}:{self.wanted_bytes}"

    @classmethod
    def parse(cls, text: str) -> "Layer":
        """Parse the result of ``str``."""
        size_bytes, stream_bytes, wanted_bytes = map(int, text.split(":"))
        return cls(size_bytes, stream_bytes, wanted_bytes)


def main(argv: Sequence[str] | None = None) -> int:
    """Extract; returns the exit status."""
    arguments = _arguments(argv)
    try:
        directory = os.open(arguments.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        _insist_on_empty(directory)
        _give_up_privileges(directory, arguments.uid, arguments.gid)
        tell: Callable[[int], object] = lambda count: os.write(1, b"%d\n" % count)  # noqa: E731 -- of one line
        if len(arguments.layer) > 1:
            materialize_chain(0, directory, arguments.layer, arguments.threads, tell)
        else:
            extract(0, directory, arguments.layer[0], arguments.threads, tell)
    except Damaged as error:
        print(error, file=sys.stderr)  # noqa: T201 -- the program's answer
        return DAMAGED
    except SnapholdError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- the program's answer
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return DISK_FULL
        print(error.strerror, file=sys.stderr)  # noqa: T201 -- the program's answer
    else:
        return 0
    return FAILED


def extract(source: int, directory: int, layer: Layer, threads: int, on_progress: Callable[[int], object]) -> None:
    """Write the files of the compressed stream that descriptor ``source`` yields into descriptor ``directory``.

    ``layer``: the lengths of the whole stream.

    Members are decompressed by ``threads`` threads; this one parses, verifies and writes.

    Raises:
        Damaged: the stream must not be trusted.
        OSError: a file cannot be written.
    """
    tree = Tree(directory)
    with closing(tree), closing(WholeFiles(tree)) as files, ThreadPoolExecutor(threads) as pool:
        on_progress(
            _read(_pieces(source, layer.size_bytes), files, pool, threads, on_progress, limit=layer.stream_bytes)
        )


def materialize_chain(
    source: int, directory: int, layers: Sequence[Layer], threads: int, on_progress: Callable[[int], object]
) -> None:
    """Materialize a chain: ``source`` yields the streams of its backups one after the other, newest first.

    ``layers``: the length of each stream, in whole members, and how much of it is needed. Raises as ``extract`` does,
    and ``Damaged`` when the chain is incomplete (:mod:`snaphold.formats.overlay`).
    """
    tree = Tree(directory)
    with closing(tree), ThreadPoolExecutor(threads) as pool:
        overlay, position = Overlay(tree), 0
        for number, wanted in enumerate(layers):
            with closing(overlay.layer(newest=number == 0, full=number == len(layers) - 1)) as layer:
                told = partial(_tell_from, on_progress, position)
                is_cut = wanted.wanted_bytes < wanted.stream_bytes
                upto = wanted.wanted_bytes if is_cut else None
                pieces = _pieces(source, wanted.size_bytes)
                read = _read(pieces, layer, pool, threads, told, limit=wanted.stream_bytes, upto=upto)
                position += wanted.stream_bytes if is_cut else read
        overlay.finish()
    on_progress(position)


def _tell_from(on_progress: Callable[[int], object], before: int, count: int) -> None:
    on_progress(before + count)


def _read(
    pieces: Iterable[bytes],
    sink: Sink,
    pool: ThreadPoolExecutor,
    threads: int,
    on_progress: Callable[[int], object],
    *,
    limit: int,
    upto: int | None = None,
) -> int:
    """Send one compressed stream to a sink and return its length.

    ``limit``: the maximum length. ``upto``: the stream was cut after this position.
    """
    reader, reported = XbstreamReader(sink), 0
    with closing(_decompressed(pieces, pool, threads)) as blocks:
        for block in blocks:
            if reader.position + len(block) > limit:  # a few MB may decompress to as many GB
                raise Damaged(f"the stream is longer than the {limit} bytes that it should have")
            reader.feed(block)
            if reader.position - reported >= PROGRESS_STEP:
                on_progress(reported := reader.position)
    if upto is None:
        reader.finish()
    elif reader.position < upto:
        raise Damaged("a stream ends before what is wanted of it does")
    return reader.position


def _decompressed(pieces: Iterable[bytes], pool: ThreadPoolExecutor, threads: int) -> Generator[bytes, None, None]:
    """Yield the blocks of a compressed stream in order, and decompress a bounded number of them ahead."""
    splitter = MemberSplitter()
    decompressing: deque[Future[bytes]] = deque()
    try:
        for piece in pieces:
            for member in splitter.feed(piece):
                decompressing.append(pool.submit(decompress_member, member))
                if len(decompressing) > 2 * threads + 4:
                    yield decompressing.popleft().result()
        while decompressing:
            yield decompressing.popleft().result()
        splitter.finish()
    finally:
        for future in decompressing:
            future.cancel()


def _pieces(source: int, size_bytes: int) -> Iterator[bytes]:
    """Yield the next ``size_bytes`` bytes of a descriptor. Raises ``Damaged`` when it has fewer."""
    rest = size_bytes
    while rest:
        piece = os.read(source, min(_READ_SIZE, rest))
        if not piece:
            raise Damaged("a stream ends before its time")
        yield piece
        rest -= len(piece)


def _insist_on_empty(directory: int) -> None:
    if os.listdir(directory):
        raise SnapholdError("the directory to extract into is not empty")


def _give_up_privileges(directory: int, uid: int | None, gid: int | None) -> None:
    """Become the given user irrevocably, lose access to everything but the directory, and die with the parent.

    No module can be imported afterwards.
    """
    parent = os.getppid()
    launcher.forbid_capabilities()
    if uid is not None and gid is not None:
        launcher.become(uid, gid)
    launcher.drop_capabilities()
    launcher.forbid_new_privileges()
    launcher.die_with(parent)
    if abi := launcher.landlock_abi():
        launcher.restrict(reads=[], writes=[f"/proc/self/fd/{directory}"], executes=[], ports=[], abi=abi)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_block_memory()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="snaphold.stream.extractor")
    parser.add_argument("--directory", required=True)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument(
        "--layer", type=Layer.parse, action="append", required=True, metavar="BYTES:STREAM_BYTES:WANTED_BYTES"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
