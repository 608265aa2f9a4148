"""Compresses a stream in independent gzip members, and takes them apart again.

Each block of BLOCK_SIZE bytes of input becomes a gzip member of its own (RFC 1952), so that blocks can be compressed
and decompressed by several threads. Members in a row are one gzip stream: ``gzip -dc`` reads it. So that they can be
told apart without decompressing them, each says its own length in an extra field of its header, ``SN``, u32:

    1f 8b 08 04  00 00 00 00  04 ff  08 00  'S' 'N'  04 00  u32 length of the whole member    header, 20 bytes
    deflate stream    u32 CRC-32 of the block    u32 length of the block
"""

import ctypes
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from isal import igzip_lib, isal_zlib

from snaphold.errors import Damaged

BLOCK_SIZE: Final = 1 << 20  # bytes of input a member
HASH_SIZE: Final = 16  # bytes; the start of a member's SHA-256

_ISAL_ERROR = cast("type[Exception]", igzip_lib.IsalError)  # its stub says that it is an instance
_HEADER = struct.Struct("<10sH2sHI")
_START: Final = bytes([0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 4, 0xFF])  # deflate, extra field, no time, fastest, any system
_FIELD: Final = b"SN"
_TRAILER = struct.Struct("<II")
_MAX_MEMBER: Final = 2 * BLOCK_SIZE  # bytes; a block that does not shrink grows by far less than this


@dataclass(frozen=True, slots=True)
class Member:
    """A compressed block. ``digest``: the first HASH_SIZE bytes of the SHA-256 of ``data``."""

    data: bytes
    digest: bytes


def compress_block(block: memoryview, level: int) -> Member:
    """Make a gzip member of at most BLOCK_SIZE bytes. ``level``: isal's, 0 to 3. Runs without the interpreter lock."""
    body = igzip_lib.compress(block, level, igzip_lib.COMP_DEFLATE)
    length = _HEADER.size + len(body) + _TRAILER.size
    header = _HEADER.pack(_START, 8, _FIELD, 4, length)
    data = b"".join((header, body, _TRAILER.pack(isal_zlib.crc32(block), len(block))))
    return Member(data, digest_of(data))


def decompress_member(member: bytes | memoryview) -> bytes:
    """The block of a whole member. Runs without the interpreter lock.

    Raises:
        Damaged: the block is not the one that was compressed.
    """
    view = memoryview(member)
    crc32, length = _TRAILER.unpack(view[-_TRAILER.size :])
    decompressor = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE, 15)
    try:
        # One byte more than a block has: a member that expands to anything is known by it, and costs no more memory.
        block = decompressor.decompress(view[_HEADER.size : -_TRAILER.size], BLOCK_SIZE + 1)
    except (_ISAL_ERROR, EOFError, ValueError) as error:
        raise Damaged(f"a gzip member cannot be decompressed: {error}") from error
    whole = decompressor.eof and not decompressor.unused_data and len(block) == length <= BLOCK_SIZE
    if not whole or isal_zlib.crc32(block) != crc32:
        raise Damaged("a gzip member decompresses to other bytes than were compressed")
    return block


def digest_of(data: bytes | memoryview) -> bytes:
    """What the index keeps of a member."""
    return hashlib.sha256(data).digest()[:HASH_SIZE]


def keep_block_memory() -> None:
    """Let this process keep the memory of freed blocks for the next ones, up to 64 MiB.

    By default glibc gives each back to the kernel and gets zeroed pages for the next: a tenth of all time. Source:
    mallopt(3).
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 4 * BLOCK_SIZE)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, 64 * BLOCK_SIZE)  # M_TRIM_THRESHOLD


class MemberSplitter:
    """Cuts a stream of members, which comes in pieces of any size, at their boundaries."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # the beginning of a member
        self._have = 0  # bytes of it
        self._need = _HEADER.size  # bytes of it that must be there before anything more can be known
        self._whole = False  # whether _need is its whole length

    def feed(self, piece: bytes) -> Iterator[bytes | memoryview]:
        """Hand on the members that this piece completes. Views are of ``piece``.

        Raises:
            Damaged: these are no members that ``compress_block`` made.
        """
        view = memoryview(piece)
        at = 0
        while at < len(view):
            if not self._have and len(view) - at >= _HEADER.size:
                length = _length(view[at : at + _HEADER.size])
                if length <= len(view) - at:
                    yield view[at : at + length]
                    at += length
                    continue
            taken = min(self._need - self._have, len(view) - at)
            self._parts.append(bytes(view[at : at + taken]))
            self._have += taken
            at += taken
            if self._have == self._need:
                data = b"".join(self._parts)
                if self._whole:
                    yield data
                    self._parts, self._have, self._need, self._whole = [], 0, _HEADER.size, False
                else:
                    self._parts, self._need, self._whole = [data], _length(memoryview(data)), True

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            Damaged: inside a member.
        """
        if self._have:
            raise Damaged("the compressed stream ends inside a gzip member")


def _length(header: memoryview) -> int:
    start, extra, field, size, length = _HEADER.unpack(header)
    fits = _HEADER.size + _TRAILER.size < length <= _MAX_MEMBER
    if (start, extra, field, size) != (_START, 8, _FIELD, 4) or not fits:
        raise Damaged("the compressed stream has no gzip member where one should be")
    return int(length)
