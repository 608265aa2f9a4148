"""Frees the disk space that InnoDB's page-compressed tables do not use.

The server punches a hole after each compressed page. A backup stream contains zeros in its place, and extracting the
stream writes them out. mbstream punches the holes again, but our extraction does not know which files need it.
"""

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE_PUNCH_HOLE: Final = 3  # fallocate(2)
_BLOCK: Final = 4096  # bytes; the smallest hole
_PIECE: Final = 1 << 20  # bytes read at once; a multiple of the page size
_HEAD: Final = 58  # bytes of the first page, up to the end of the flags
_FLAGS: Final = 54  # offset in the first page
_FULL_CRC32: Final = 0x10  # a flag; it changes the meaning of the others
_NO_HOLES: Final = {errno.EOPNOTSUPP, errno.ENOSYS}
_DEFAULT_PAGE_SIZE: Final = 16384  # bytes


def punch_holes(directory: Path) -> None:
    """Make the page-compressed tables of a data directory sparse, if the file system supports it.

    The contents of the files stay the same. Raises ``OSError``.
    """
    databases = [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    for path in (path for database in databases for path in database.glob("*.ibd")):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            facts = os.fstat(descriptor)
            ours = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
            if ours and _is_page_compressed(os.pread(descriptor, _HEAD, 0)):
                _punch(descriptor)
        except OSError as error:
            if error.errno not in _NO_HOLES:
                raise
            return
        finally:
            os.close(descriptor)


def _is_page_compressed(head: bytes) -> bool:
    """Whether the first page of a file says that its pages are compressed."""
    flags = _flags_of(head)
    return bool(flags >> 5 & 0x7 if flags & _FULL_CRC32 else flags >> 16 & 0x1)


def page_size_of(head: bytes) -> int:
    """The page size of a file in bytes, from its first page."""
    flags = _flags_of(head)
    shift = flags & 0xF if flags & _FULL_CRC32 else (flags >> 1 & 0xF) or (flags >> 6 & 0xF)
    return 512 << shift if 0 < shift <= 7 else _DEFAULT_PAGE_SIZE


def _flags_of(head: bytes) -> int:
    return int(struct.unpack_from(">I", head, _FLAGS)[0]) if len(head) >= _FLAGS + 4 else 0


def _punch(descriptor: int) -> None:
    page_size = page_size_of(os.pread(descriptor, _HEAD, 0))
    offset = 0
    while piece := os.pread(descriptor, _PIECE, offset):
        for start in range(0, len(piece), page_size):
            page = piece[start : start + page_size]
            used = -(-len(page.rstrip(b"\0")) // _BLOCK) * _BLOCK
            if used < len(page):
                _give_back(descriptor, offset + start + used, len(page) - used)
        offset += len(piece)


def _give_back(descriptor: int, offset: int, length: int) -> None:
    if _LIBC.fallocate(descriptor, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
