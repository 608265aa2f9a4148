"""Reads and writes files past the page cache (O_DIRECT, open(2)): bytes that nobody asks for again soon.

Through the cache a stored byte costs several times what it costs without, and the pages that it takes are those of
the database servers beside us. Where a file system has no such way, and at the edges of what is read and written,
the cache is used; nobody need know.
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
BLOCK: Final = 4096  # bytes; every disk takes positions, lengths and memory that are multiples of it
WRITE_SIZE: Final = 1 << 20  # bytes; more at once, and a server's log waits behind them
_READ_SIZE: Final = 4 << 20  # bytes
_PIECE: Final = 256 << 10  # bytes that are handed on at once: who looks at them finds them in the processor's cache
_NOT_THIS_WAY: Final = {errno.EINVAL, errno.EOPNOTSUPP}
_LEAST: Final = 16 * BLOCK  # bytes; for fewer a way through the cache is no slower


class DirectWriter:
    """Writes files one after the other, or in turns. What stands in a row is gathered; ``flush`` writes what is left.

    Whole MiBs that begin at a block, in the file and in memory, are written from where they are.

    Not for several threads. Nothing is durable before the file is synced. After a failure it is of no more use.
    """

    def __init__(self) -> None:
        self._memory = block_memory(WRITE_SIZE)
        self._descriptor = -1  # of the file that it belongs to
        self._position = 0  # where in it the memory's start belongs: at a block
        self._begin = self._end = 0  # what of the memory is to be written

    def write(self, descriptor: int, piece: bytes | memoryview, position: int) -> None:
        """Write a piece, now or soon. Raises ``OSError``: this one, or one before it, cannot be."""
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
        """Write what was gathered. Before its file is read, synced or closed. Raises ``OSError``."""
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
    """The bytes of a file from ``start`` to ``end``, in pieces of at most 256 KiB; fewer where it is shorter."""
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
    """Memory that begins at a block; given back once nobody has a view of it."""
    return memoryview(mmap.mmap(-1, max(size, BLOCK), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _at_block(memory: memoryview) -> bool:
    """Whether memory is known to begin at a block: Python tells no address of what is read-only."""
    return (
        not memory.readonly and memory.c_contiguous and ctypes.addressof(ctypes.c_char.from_buffer(memory)) % BLOCK == 0
    )


def write_all(descriptor: int, piece: bytes | memoryview, position: int) -> None:
    """pwrite(2) of all of a piece, however short the writes come out."""
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        position += written
        rest = rest[written:]


def _past_the_cache(descriptor: int, operation: Callable[[], Result]) -> Result:
    """Do something with whole blocks of a file: past the cache where the file system lets it, else through it."""
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
