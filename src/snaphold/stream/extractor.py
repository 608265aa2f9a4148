"""The program that turns a compressed stream on its standard input into the files of a data directory.

    python -m snaphold.stream.extractor --directory DIR [--uid UID --gid GID] --threads N

It is a process of its own because a stream may be hostile: once everything is imported and the directory is open it
gives up root, its groups, and any way back, and dies with its parent. Names are checked, files are made anew (0600,
directories 0700), links never followed, the CRC of every chunk is verified, and a stream that is not whole is refused.
The directory must be empty; what a failure leaves in it is the caller's to remove.

Standard output: ``<bytes of the stream so far>`` a line, every PROGRESS_STEP; the last line counts them all. Standard
error: one line, the reason. Exit status: 0 the files are written (not synced), 1 they could not be, DAMAGED the stream
must not be trusted.
"""

import argparse
import ctypes
import errno
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from isal import isal_zlib

from snaphold.errors import Damaged, SnapholdError
from snaphold.stream.compress import MemberSplitter, decompress_member, keep_block_memory
from snaphold.stream.xbstream import File, XbstreamReader

DAMAGED: Final = 3  # exit status
PROGRESS_STEP: Final = 16 << 20  # bytes of the stream
_READ_SIZE: Final = 1 << 20  # bytes
_MAX_DIRECTORIES: Final = 256  # open at once
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_PR_SET_NO_NEW_PRIVS: Final = 38


def main(argv: Sequence[str] | None = None) -> int:
    """Extract; returns the exit status."""
    arguments = _arguments(argv)
    try:
        directory = os.open(arguments.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        _insist_on_empty(directory)
        _give_up_privileges(arguments.uid, arguments.gid)
        extract(0, directory, arguments.threads, lambda count: os.write(1, b"%d\n" % count))
    except Damaged as error:
        print(error, file=sys.stderr)  # noqa: T201 -- the program's answer
        return DAMAGED
    except SnapholdError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- the program's answer
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        print("the disk has no space left" if full else error, file=sys.stderr)  # noqa: T201 -- the program's answer
    else:
        return 0
    return 1


def extract(source: int, directory: int, threads: int, on_progress: Callable[[int], object]) -> None:
    """Write the files of the compressed stream that descriptor ``source`` yields into descriptor ``directory``.

    Members are decompressed by ``threads`` threads; this one parses, verifies and writes.

    Raises:
        Damaged: the stream must not be trusted.
        OSError: a file cannot be written.
    """
    splitter, files = MemberSplitter(), _Files(directory)
    reader = XbstreamReader(files)
    reported = 0
    decompressing: deque[Future[bytes]] = deque()

    def take_oldest() -> None:
        nonlocal reported
        reader.feed(decompressing.popleft().result())
        if reader.position - reported >= PROGRESS_STEP:
            on_progress(reported := reader.position)

    with ThreadPoolExecutor(threads) as pool:
        try:
            while piece := os.read(source, _READ_SIZE):
                for member in splitter.feed(piece):
                    decompressing.append(pool.submit(decompress_member, member))
                    if len(decompressing) > 2 * threads + 4:
                        take_oldest()
            splitter.finish()
            while decompressing:
                take_oldest()
            reader.finish()
        finally:
            pool.shutdown(cancel_futures=True)
            files.close()
    on_progress(reader.position)


class _Files:
    """Writes files as the stream tells of them; a Sink (:mod:`snaphold.stream.xbstream`)."""

    def __init__(self, directory: int) -> None:
        self._directories = {"": directory}  # descriptors, by path
        self._open: dict[int, int] = {}  # descriptors, by the file's number
        self._crc32 = 0

    def opened(self, file: File) -> None:
        self._forget_directories()
        directory, name = self._place(file.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._open[file.number] = os.open(name, flags, 0o600, dir_fd=directory)

    def payload(self, file: File, offset: int, piece: memoryview) -> None:
        self._crc32 = isal_zlib.crc32(piece, self._crc32)
        while piece:
            written = os.pwrite(self._open[file.number], piece, offset)
            offset += written
            piece = piece[written:]

    def chunk_ended(self, file: File, crc32: int) -> None:
        if self._crc32 != crc32:
            raise Damaged(f"a chunk of {file.path} differs from what the backup tool wrote")
        self._crc32 = 0

    def closed(self, file: File) -> None:
        os.close(self._open.pop(file.number))

    def renamed(self, file: File, old_path: str) -> None:
        self._forget_directories()
        old_directory, old_name = self._place(old_path)
        directory, name = self._place(file.path)
        os.rename(old_name, name, src_dir_fd=old_directory, dst_dir_fd=directory)

    def removed(self, file: File) -> None:
        directory, name = self._place(file.path)
        os.unlink(name, dir_fd=directory)

    def close(self) -> None:
        """Close every descriptor."""
        for descriptor in (*self._open.values(), *self._directories.values()):
            os.close(descriptor)

    def _forget_directories(self) -> None:
        """Close the directories when they are many: a server may have more databases than we may have descriptors."""
        if len(self._directories) > _MAX_DIRECTORIES:
            for path in [path for path in self._directories if path]:
                os.close(self._directories.pop(path))

    def _place(self, path: str) -> tuple[int, str]:
        """The descriptor of a path's directory, which is made where it is missing, and the name in it."""
        above, _, name = path.rpartition("/")
        if above not in self._directories:
            parent, last = self._place(above)
            with suppress(FileExistsError):  # it is opened next, if it is a directory
                os.mkdir(last, 0o700, dir_fd=parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            self._directories[above] = os.open(last, flags, dir_fd=parent)
        return self._directories[above], name


def _insist_on_empty(directory: int) -> None:
    if os.listdir(directory):
        raise SnapholdError("the directory to extract into is not empty")


def _give_up_privileges(uid: int | None, gid: int | None) -> None:
    """Become the given user for good, and die with the parent. Nothing can be imported from a private place later."""
    if uid is not None and gid is not None:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):  # after the change of user
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl failed")
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_block_memory()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="snaphold.stream.extractor")
    parser.add_argument("--directory", required=True)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
