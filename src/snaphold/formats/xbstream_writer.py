"""Writes the files of a directory as an xbstream, as the backup tool does (:mod:`snaphold.formats.xbstream`)."""

import os
import struct
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from isal import isal_zlib

from snaphold.errors import Permanent
from snaphold.formats.xbstream import DISPLACED, LAST_FILES, MAGIC

CHUNK_SIZE: Final = 1 << 20  # bytes of payload
_HEAD: Final = struct.Struct("<8sBcI")
_PAYLOAD: Final = struct.Struct("<QQI")
_SEEK: Final = struct.Struct("<Q")
_LATE: Final = ("ib_logfile0", "xtrabackup_checkpoints", "mariadb_backup_checkpoints", "backup-my.cnf")


class TreeStream:
    """Reads the files of a directory as one stream, and removes each file after its last byte was read.

    The order is the tool's: the tables, then the redo log, then the file that ends a stream. Holes stay holes: they are
    neither read nor, when the stream is extracted, written. Nothing else may write to the directory meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts = self._stream()
        self._part = memoryview(b"")
        self._killed = False

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of the buffer and return the number of bytes; 0 at the end.

        Raises:
            Permanent: a file cannot be read, or ``kill`` was called.
        """
        if self._killed:
            raise Permanent("the merged files are not read any further")
        if not self._part:
            try:
                self._part = memoryview(next(self._parts, b""))
            except OSError as error:
                raise Permanent(f"the merged files cannot be read: {error.strerror}") from error
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    def kill(self) -> None:
        """Make the next read fail."""
        self._killed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def _stream(self) -> Generator[bytes, None, None]:
        paths = [path.relative_to(self._directory).as_posix() for path in self._directory.rglob("*") if path.is_file()]
        for path in sorted(paths, key=_order):
            yield from _file(self._directory / path, DISPLACED.get(path, path).encode())
            (self._directory / path).unlink()


def _order(path: str) -> tuple[int, str]:
    if DISPLACED.get(path, path) in LAST_FILES:
        return 2, path
    return (1 if path in _LATE else 0), path


def _file(source: Path, path: bytes) -> Iterator[bytes]:
    """Yield the chunks of one file."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        at = 0
        for start, end in _extents(descriptor, size):
            if start > at:
                yield _head(path, b"S") + _SEEK.pack(start)
            for offset in range(start, end, CHUNK_SIZE):
                payload = os.pread(descriptor, min(CHUNK_SIZE, end - offset), offset)
                crc32 = isal_zlib.crc32(payload)
                yield _head(path, b"P") + _PAYLOAD.pack(len(payload), offset, crc32)
                yield payload
            at = end
        yield _head(path, b"E")
    finally:
        os.close(descriptor)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that contain data. If it ends with a hole, its last byte counts as data."""
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            yield size - 1, size
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
        at = end


def _head(path: bytes, kind: bytes) -> bytes:
    return _HEAD.pack(MAGIC, 0, kind, len(path)) + path
