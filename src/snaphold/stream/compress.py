"""Compresses a stream into independent members, and splits and decompresses them.

Each block of BLOCK_SIZE bytes of input becomes one member, so that several threads can compress and decompress blocks.
The concatenated members are one stream, which the standard tools can read. Each member begins with its own length, so
that members can be split without decompressing them.

``gzip`` (RFC 1952), for ``gzip -dc``: the length is in an extra field of the header, ``SN``, u32:

    1f 8b 08 04  00 00 00 00  04 ff  08 00  'S' 'N'  04 00  u32 length of the whole member    header, 20 bytes
    deflate stream    u32 CRC-32 of the block    u32 length of the block

``zstd`` (RFC 8878), for ``zstd -dc``: a skippable frame with the length, then a frame with size and checksum:

    50 2a 4d 18  04 00 00 00  u32 length of the whole member    header, 12 bytes
    zstd frame
"""

import ctypes
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Final, Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from snaphold.errors import Damaged
from snaphold.formats.manifest import CodecName

Member = tuple[bytes, bytes]  # its header and the rest; joining them would copy the bytes
BLOCK_SIZE: Final = 1 << 20  # bytes of input for each member

_ISAL_ERROR = cast("type[Exception]", igzip_lib.IsalError)  # its type stub declares an instance
_HEADER = struct.Struct("<10sH2sHI")
_START: Final = bytes([0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 4, 0xFF])  # deflate, extra field, no time, fastest, any system
_FIELD: Final = b"SN"
_TRAILER = struct.Struct("<II")
_SKIPPABLE = struct.Struct("<III")
_SKIPPABLE_MAGIC: Final = 0x184D2A50
_MAX_MEMBER: Final = 2 * BLOCK_SIZE  # bytes; an incompressible block grows by far less


class Codec(Protocol):
    """A format of members. All methods but ``length`` release the interpreter lock; all are thread-safe."""

    suffix: str  # of the data object's name
    header_size: int  # bytes at the start of a member that ``length`` needs

    def compress(self, block: memoryview, level: int) -> Member:
        """Compress a block of at most BLOCK_SIZE bytes."""

    def decompress(self, member: memoryview) -> bytes:
        """Decompress a member. Raises ``Damaged`` when the result is not the block that was compressed."""

    def length(self, header: memoryview) -> int:
        """Return the length of the member with this header. Raises ``Damaged`` when it is no such header."""


class _Gzip:
    """The gzip format, implemented by isal."""

    suffix = "gz"
    header_size = _HEADER.size

    def compress(self, block: memoryview, level: int) -> Member:
        body = igzip_lib.compress(block, level, igzip_lib.COMP_GZIP_NO_HDR)  # with the trailer
        return _HEADER.pack(_START, 8, _FIELD, 4, _HEADER.size + len(body)), body

    def decompress(self, member: memoryview) -> bytes:
        crc32, length = _TRAILER.unpack(member[-_TRAILER.size :])
        decompressor = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE, 15)
        try:
            # One byte more than a block: this detects a member that expands further, without using more memory.
            block = decompressor.decompress(member[_HEADER.size : -_TRAILER.size], BLOCK_SIZE + 1)
        except (_ISAL_ERROR, EOFError, ValueError) as error:
            raise Damaged(f"a gzip member cannot be decompressed: {error}") from error
        whole = decompressor.eof and not decompressor.unused_data and len(block) == length <= BLOCK_SIZE
        if not whole or isal_zlib.crc32(block) != crc32:
            raise Damaged("a gzip member decompresses to other bytes than were compressed")
        return block

    def length(self, header: memoryview) -> int:
        start, extra, field, size, length = _HEADER.unpack(header)
        if (start, extra, field, size) != (_START, 8, _FIELD, 4) or length <= _HEADER.size + _TRAILER.size:
            raise Damaged("the compressed stream has no gzip member where one should be")
        return int(length)


class _Compressors(threading.local):
    """The Zstandard compressors of one thread, by level."""

    def __init__(self) -> None:
        self._made: dict[int, zstandard.ZstdCompressor] = {}

    def of(self, level: int) -> zstandard.ZstdCompressor:
        """Return the compressor of this level."""
        if level not in self._made:
            self._made[level] = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        return self._made[level]


class _Zstd:
    """The Zstandard format."""

    suffix = "zst"
    header_size = _SKIPPABLE.size

    def __init__(self) -> None:
        self._own = _Compressors()

    def compress(self, block: memoryview, level: int) -> Member:
        frame = self._own.of(level).compress(block)
        return _SKIPPABLE.pack(_SKIPPABLE_MAGIC, 4, _SKIPPABLE.size + len(frame)), frame

    def decompress(self, member: memoryview) -> bytes:
        frame = member[_SKIPPABLE.size :]
        try:
            facts = zstandard.get_frame_parameters(frame)
            if not facts.has_checksum or facts.content_size > BLOCK_SIZE:  # an unknown size is the largest number
                raise Damaged("a zstd member is not of the form that it was given")
            return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(f"a zstd member cannot be decompressed: {error}") from error

    def length(self, header: memoryview) -> int:
        magic, size, length = _SKIPPABLE.unpack(header)
        if (magic, size) != (_SKIPPABLE_MAGIC, 4) or length <= _SKIPPABLE.size:
            raise Damaged("the compressed stream has no zstd member where one should be")
        return int(length)


CODECS: Final[Mapping[CodecName, Codec]] = {"gzip": _Gzip(), "zstd": _Zstd()}


def compress_block(block: memoryview, level: int, codec: CodecName = "gzip") -> Member:
    """Compress a block of at most BLOCK_SIZE bytes. Releases the interpreter lock."""
    return CODECS[codec].compress(block, level)


def decompress_member(member: bytes | memoryview) -> bytes:
    """Decompress a member of either codec. Releases the interpreter lock.

    Raises:
        Damaged: the result is not the block that was compressed.
    """
    view = memoryview(member)
    return _codec_of(view[0]).decompress(view)


def keep_block_memory() -> None:
    """Make this process reuse the memory of freed blocks, up to 64 MiB.

    By default glibc returns each block to the kernel and gets zeroed pages for the next one, which takes a tenth of the
    time. Source: mallopt(3).
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 4 * BLOCK_SIZE)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, 64 * BLOCK_SIZE)  # M_TRIM_THRESHOLD


class MemberSplitter:
    """Splits a stream, which arrives in pieces of any size, into its members."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # the start of an incomplete member
        self._have = 0  # bytes of it that have arrived
        self._need = 1  # bytes of it that are needed for the next step
        self._whole = False  # whether _need is its whole length

    def feed(self, piece: bytes) -> Iterator[bytes | memoryview]:
        """Yield the members that this piece completes. Views refer to ``piece``.

        Raises:
            Damaged: the stream does not consist of members as ``compress_block`` makes them.
        """
        view = memoryview(piece)
        at = 0
        while at < len(view):
            if not self._have and (length := _length(view[at:])) is not None and length <= len(view) - at:
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
                    self._parts, self._have, self._need, self._whole = [], 0, 1, False
                else:
                    start = memoryview(data)
                    length = _length(start)
                    self._parts, self._whole = [data], length is not None
                    self._need = _codec_of(start[0]).header_size if length is None else length

    def finish(self) -> None:
        """Check the end of the stream.

        Raises:
            Damaged: it is inside a member.
        """
        if self._have:
            raise Damaged("the compressed stream ends inside a member")


def _codec_of(first: int) -> Codec:
    """Return the codec for the first byte of a member. ``length`` of that codec checks the rest of the header."""
    return CODECS["zstd" if first == _SKIPPABLE_MAGIC & 0xFF else "gzip"]


def _length(start: memoryview) -> int | None:
    """Return the length of the member that begins like this; None if more bytes are needed. Raises ``Damaged``."""
    codec = _codec_of(start[0])
    if len(start) < codec.header_size:
        return None
    length = codec.length(start[: codec.header_size])
    if length > _MAX_MEMBER:
        raise Damaged("the compressed stream has a member that is larger than any")
    return length
