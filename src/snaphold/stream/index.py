"""The index of a backup: where each piece of each file lies.

With it single files, tables and pages can be read by ranged GETs without the rest. It is an object of its own,
gzip-compressed; its SHA-256 stands in the manifest. Decompressed (numbers little-endian):

    "SNAPIDX1"
    u32 block size    u32 segment size    u64 length of the stream    u32 files    u32 chunks    u32 members
    files, by number:   u64 size    u8 present (0: removed or replaced by a later chunk)    u16 length of path    path
    chunks (24 bytes):  u32 file    u64 offset in the file    u64 offset in the stream    u32 length
    members (28 bytes): u32 segment    u32 offset in it    u32 length    16 bytes, the start of its SHA-256

Chunks stand in the stream's order. Member ``n`` holds the bytes of the stream from ``n * block size``; it may reach
into the next segment.
"""

import gzip
import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from snaphold.errors import Damaged
from snaphold.stream.compress import HASH_SIZE
from snaphold.stream.xbstream import Chunk, File

MAGIC: Final = b"SNAPIDX1"
_COUNTS = struct.Struct("<IIQIII")
_FILE = struct.Struct("<QBH")
_CHUNK = struct.Struct("<IQQI")
_MEMBER = struct.Struct(f"<III{HASH_SIZE}s")
_MAX_CHUNK: Final = 0xFFFF_FFFF  # bytes; a longer payload is kept as several chunks


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file of the stream. ``present``: it is still there at the stream's end, under this path."""

    path: str
    size_bytes: int
    present: bool


@dataclass(frozen=True, slots=True)
class IndexedMember:
    """Where a gzip member is, and the start of its SHA-256."""

    segment: int
    offset: int
    length: int
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class Index:
    """A decoded index."""

    block_size: int
    segment_size: int
    stream_bytes: int
    files: list[IndexedFile]
    chunks: list[Chunk]
    members: list[IndexedMember]

    @classmethod
    def of(
        cls,
        *,
        block_size: int,
        segment_size: int,
        stream_bytes: int,
        files: Iterable[File],
        chunks: Iterable[Chunk],
        members: Iterable[tuple[int, bytes]],
    ) -> "Index":
        """The index of a stream that was read whole. ``members``: length and digest of each, in order."""
        pairs = list(members)
        starts = itertools.accumulate((length for length, _ in pairs), initial=0)
        return cls(
            block_size=block_size,
            segment_size=segment_size,
            stream_bytes=stream_bytes,
            files=[IndexedFile(file.path, file.size_bytes, file.present) for file in files],
            chunks=[part for chunk in chunks for part in _split(chunk)],
            members=[
                IndexedMember(start // segment_size, start % segment_size, length, digest)
                for start, (length, digest) in zip(starts, pairs, strict=False)
            ],
        )

    def encode(self) -> bytes:
        """The object's bytes; the same for the same index."""
        counts = (len(self.files), len(self.chunks), len(self.members))
        parts = [MAGIC, _COUNTS.pack(self.block_size, self.segment_size, self.stream_bytes, *counts)]
        for file in self.files:
            path = file.path.encode()
            parts += (_FILE.pack(file.size_bytes, file.present, len(path)), path)
        parts += (_CHUNK.pack(chunk.file, chunk.offset, chunk.stream_offset, chunk.length) for chunk in self.chunks)
        parts += (_MEMBER.pack(m.segment, m.offset, m.length, m.digest) for m in self.members)
        return gzip.compress(b"".join(parts), 6, mtime=0)

    @classmethod
    def decode(cls, data: bytes) -> "Index":
        """Read an index back.

        Raises:
            Damaged: these bytes are none.
        """
        try:
            raw = gzip.decompress(data)
            if raw[: len(MAGIC)] != MAGIC:
                raise Damaged("this is no index of a backup")
            return cls._parse(memoryview(raw))
        except (OSError, EOFError, zlib.error, struct.error, UnicodeDecodeError, ValueError) as error:
            raise Damaged(f"the index cannot be understood: {error}") from error

    @classmethod
    def _parse(cls, raw: memoryview) -> "Index":
        at = len(MAGIC)
        block_size, segment_size, stream_bytes, file_count, chunk_count, member_count = _COUNTS.unpack_from(raw, at)
        at += _COUNTS.size
        files = []
        for _ in range(file_count):
            size_bytes, present, length = _FILE.unpack_from(raw, at)
            at += _FILE.size
            files.append(IndexedFile(str(raw[at : at + length], "utf-8"), size_bytes, bool(present)))
            at += length
        members_at = at + chunk_count * _CHUNK.size
        end = members_at + member_count * _MEMBER.size
        if len(raw) != end:
            raise Damaged(f"the index has {len(raw)} bytes instead of {end}")
        return cls(
            block_size=block_size,
            segment_size=segment_size,
            stream_bytes=stream_bytes,
            files=files,
            chunks=[Chunk(*fields) for fields in _CHUNK.iter_unpack(raw[at:members_at])],
            members=[IndexedMember(*fields) for fields in _MEMBER.iter_unpack(raw[members_at:])],
        )


def _split(chunk: Chunk) -> Iterator[Chunk]:
    for start in range(0, chunk.length, _MAX_CHUNK):
        length = min(_MAX_CHUNK, chunk.length - start)
        yield Chunk(chunk.file, chunk.offset + start, chunk.stream_offset + start, length)
