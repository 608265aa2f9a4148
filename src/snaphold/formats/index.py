"""The index of a backup: the position of every piece of every file.

With it, single files, tables and pages can be read by ranged GETs. The index is an object of its own, compressed with
gzip; the manifest contains its SHA-256. Decompressed, with little-endian numbers:

    "SNAPIDX2"
    u32 block size    u32 segment size    u64 length of the stream    u32 files    u32 chunks    u32 members
    files, by number:   u64 size    u64 end    u8 present (0: removed or replaced later)    u16 length of path    path
    chunks (24 bytes):  u32 file    u64 offset in the file    u64 offset in the stream    u32 length
    members (12 bytes): u32 segment    u32 offset in it    u32 length

A file's end is the position in the stream where its last chunk ends. Chunks are in the stream's order. Member ``n``
contains the bytes of the stream from ``n * block size`` on; it may reach into the next segment. Its own checksum
verifies its contents. ("SNAPIDX1" had no ends, and each member was followed by 16 bytes of its SHA-256.)
"""

import gzip
import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from snaphold.errors import Damaged
from snaphold.formats.xbstream import Chunk, File

MAGIC: Final = b"SNAPIDX2"
_COUNTS = struct.Struct("<IIQIII")
_FILE = struct.Struct("<QQBH")
_CHUNK = struct.Struct("<IQQI")
_MEMBER = struct.Struct("<III")
_FIRST_MAGIC: Final = b"SNAPIDX1"
_FIRST_FILE = struct.Struct("<QBH")
_FIRST_MEMBER = struct.Struct("<III16x")
_MAX_CHUNK: Final = 0xFFFF_FFFF  # bytes; a longer payload is recorded as several chunks


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file of the stream.

    ``present``: at the end of the stream the file exists under this path. ``end``: no byte of the file follows this
    position of the stream.
    """

    path: str
    size_bytes: int
    present: bool
    end: int


@dataclass(frozen=True, slots=True)
class IndexedMember:
    """The position of a member in the data object."""

    segment: int
    offset: int
    length: int


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
        members: Sequence[int],
    ) -> "Index":
        """Build the index of a complete stream. ``members``: their lengths, in order."""
        starts = itertools.accumulate(members, initial=0)
        return cls(
            block_size=block_size,
            segment_size=segment_size,
            stream_bytes=stream_bytes,
            files=[IndexedFile(file.path, file.size_bytes, file.present, file.end) for file in files],
            chunks=[part for chunk in chunks for part in _split(chunk)],
            members=[
                IndexedMember(start // segment_size, start % segment_size, length)
                for start, length in zip(starts, members, strict=False)
            ],
        )

    def upto(self, position: int) -> int:
        """Return how many bytes at the start of the data object contain the stream up to ``position``."""
        count = min(-(-position // self.block_size), len(self.members))
        last = self.members[count - 1] if count else IndexedMember(0, 0, 0)
        return last.segment * self.segment_size + last.offset + last.length

    def encode(self) -> bytes:
        """Return the bytes of the object; equal indexes have equal bytes."""
        counts = (len(self.files), len(self.chunks), len(self.members))
        parts = [MAGIC, _COUNTS.pack(self.block_size, self.segment_size, self.stream_bytes, *counts)]
        for file in self.files:
            path = file.path.encode()
            parts += (_FILE.pack(file.size_bytes, file.end, file.present, len(path)), path)
        parts += (_CHUNK.pack(chunk.file, chunk.offset, chunk.stream_offset, chunk.length) for chunk in self.chunks)
        parts += (_MEMBER.pack(m.segment, m.offset, m.length) for m in self.members)
        return gzip.compress(b"".join(parts), 6, mtime=0)

    @classmethod
    def decode(cls, data: bytes) -> "Index":
        """Parse the bytes of the object.

        Raises:
            Damaged: they are not an index.
        """
        try:
            raw = gzip.decompress(data)
            if raw[: len(MAGIC)] not in {MAGIC, _FIRST_MAGIC}:
                raise Damaged("this is no index of a backup")
            return cls._parse(memoryview(raw), first=raw.startswith(_FIRST_MAGIC))
        except (OSError, EOFError, zlib.error, struct.error, UnicodeDecodeError, ValueError) as error:
            raise Damaged(f"the index cannot be understood: {error}") from error

    @classmethod
    def _parse(cls, raw: memoryview, *, first: bool) -> "Index":
        at, file, member = len(MAGIC), _FIRST_FILE if first else _FILE, _FIRST_MEMBER if first else _MEMBER
        block_size, segment_size, stream_bytes, file_count, chunk_count, member_count = _COUNTS.unpack_from(raw, at)
        at += _COUNTS.size
        files = []
        for _ in range(file_count):
            size_bytes, *ends, present, length = file.unpack_from(raw, at)
            at += file.size
            end = ends[0] if ends else stream_bytes
            files.append(IndexedFile(str(raw[at : at + length], "utf-8"), size_bytes, bool(present), end))
            at += length
        members_at = at + chunk_count * _CHUNK.size
        if len(raw) != (expected := members_at + member_count * member.size):
            raise Damaged(f"the index has {len(raw)} bytes instead of {expected}")
        return cls(
            block_size=block_size,
            segment_size=segment_size,
            stream_bytes=stream_bytes,
            files=files,
            chunks=[Chunk(*fields) for fields in _CHUNK.iter_unpack(raw[at:members_at])],
            members=[IndexedMember(*fields) for fields in member.iter_unpack(raw[members_at:])],
        )


def _split(chunk: Chunk) -> Iterator[Chunk]:
    for start in range(0, chunk.length, _MAX_CHUNK):
        length = min(_MAX_CHUNK, chunk.length - start)
        yield Chunk(chunk.file, chunk.offset + start, chunk.stream_offset + start, length)
