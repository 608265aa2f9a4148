"""Reads and writes files without the page cache (O_DIRECT, open(2)), for bytes that are not read again soon.

Writing through the cache costs several times the processor time, and evicts pages of the database servers on this
machine. If the file system does not support direct access, the cache is used instead, and also for the ends of a range
that do not fill a block.
"""

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar

Result = TypeVar("Result")
BLOCK: Final = 4096  # bytes; disks accept positions, lengths and memory addresses that are multiples of it
WRITE_SIZE: Final = 1 << 20  # bytes; larger writes make the servers' log writes wait
_READ_SIZE: Final = 4 << 20  # bytes
_PIECE: Final = 256 << 10  # bytes yielded at a time, so that they are still in the processor's cache when they are used
_NOT_THIS_WAY: Final = {errno.EINVAL, errno.EOPNOTSUPP}
_LEAST: Final = 16 * BLOCK  # bytes; for fewer the cache is as fast


class DirectWriter:
    """Writes to one or several files. Collects adjacent pieces into large writes; ``flush`` writes the rest.

    A whole MiB that is aligned to blocks, in the file and in memory, is written without copying it first.

    Not thread-safe. Nothing is durable before the file is synced. Must not be used after a failure.
    """

    def __init__(self) -> None:
        self._memory = block_memory(WRITE_SIZE)
        self._descriptor = -1  # of the current file
        self._position = 0  # in the file, of the start of the memory; a multiple of BLOCK
        self._begin = self._end = 0  # the range of the memory that is not written yet

    def write(self, descriptor: int, piece: bytes | memoryview, position: int) -> None:
        """Write a piece, now or later. Raises ``OSError`` when this piece or an earlier one cannot be written."""
        rest = memoryview(piece)
        if (descriptor, position) != (self._descriptor, self._position + self._end):
            self.flush()
            self._descriptor, self._begin = descriptor, position % BLOCK
            self._position, self._end = position - self._begin, self._begin
        while rest:
            part = rest[: len(self._memory) - self._end]
            if len(part) == len(self._memory) and _at_block(part):
                _past_the_cache(descriptor, partial(write_all, descriptor, part, self._position))
                self._position += len(part)
            else:
                self._memory[self._end : self._end + len(part)] = part
                self._end += len(part)
                if self._end == len(self._memory):
                    self._write_out()
            rest = rest[len(part) :]

    def flush(self) -> None:
        """Write the collected bytes. Call it before the file is read, synced or closed. Raises ``OSError``."""
        self._write_out()
        self._descriptor = -1

    def _write_out(self) -> None:
        memory, begin, end, start = self._memory, self._begin, self._end, self._position
        self._position, self._begin, self._end = start + end, 0, 0
        first, last = -(-begin // BLOCK) * BLOCK, end // BLOCK * BLOCK  # the whole blocks
        if last - first < _LEAST:
            first = last = end
        write_all(self._descriptor, memory[begin:first], start + begin)
        if first < last:
            _past_the_cache(self._descriptor, partial(write_all, self._descriptor, memory[first:last], start + first))
        write_all(self._descriptor, memory[last:end], start + last)


def read_pieces(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a file from ``start`` to ``end``, or to its end, in pieces of at most 256 KiB."""
    position = start - start % BLOCK
    memory = block_memory(min(_READ_SIZE, -(-(end - position) // BLOCK) * BLOCK))
    while position < end:
        read = partial(os.preadv, descriptor, [memory], position)
        count = read() if end - start < _LEAST else _past_the_cache(descriptor, read)
        upto = min(count, end - position)
        for first in range(max(start - position, 0), upto, _PIECE):
            yield bytes(memory[first : min(first + _PIECE, upto)])
        if not count:
            return
        position += count


def block_memory(size: int) -> memoryview:
    """Allocate memory that is aligned to BLOCK. It is freed with its last view."""
    return memoryview(mmap.mmap(-1, max(size, BLOCK), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _at_block(memory: memoryview) -> bool:
    """Whether memory is known to be aligned to BLOCK. Python does not tell the address of read-only memory."""
    return (
        not memory.readonly and memory.c_contiguous and ctypes.addressof(ctypes.c_char.from_buffer(memory)) % BLOCK == 0
    )


def write_all(descriptor: int, piece: bytes | memoryview, position: int) -> None:
    """Write all of a piece at this position, with as many calls of pwrite(2) as it takes."""
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        position += written
        rest = rest[written:]


def _past_the_cache(descriptor: int, operation: Callable[[], Result]) -> Result:
    """Read or write whole blocks of a file, without the cache if the file system supports that."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        return operation()
    except OSError as error:
        if error.errno not in _NOT_THIS_WAY:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return operation()
